"""The placebo: a root that is trained on with its own corpora, as long as a fine-tune.

What of an edge's numbers a training without new data brings about, too, says nothing of the new data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.flow.intervals import ALL, Compared, count_verdicts
from feature_lineage.flow.verdicts import VERDICTS, numbers

READING = ("own_l0", "own_variance_explained", "l0", "variance_explained")
PLACEBO = pa.schema(
    [("root", pa.string()), ("placebo", pa.string()), ("fine_tunes", pa.string()), ("seed", pa.int64())]
    + [(name, pa.int64()) for name in ("living", *VERDICTS)]
    + [(name, pa.float64()) for name in ("share", "low", "high", "persisting_share")]
    + [(name, pa.float64()) for name in ("weights_all", "weights_hooked_block", *READING)]
)


def measure_placebo(
    one: Compared,
    fine_tunes: Sequence[str],
    reading: Mapping[str, Any],
    weights: Mapping[str, Any],
    threshold: float,
) -> dict[str, Any]:
    """A row of `PLACEBO`: what became of the root's features in its placebo.

    Args:
        one: root and placebo, with their verdicts.
        fine_tunes: those whose schedule the placebo has.
        reading: how well the root's dictionary reads either (`summary.about_edge`).
        weights: how far the weights moved (`distance.compare_weights`).
        threshold: of r.

    Returns:
        `share`, `low` and `high` are of the kept ones. `found` and `persisting_share`, the share that a feature of the placebo's own
        dictionary matches, are None if it has none: what would be found then counts as drifted or lost.
    """
    rows = {row["verdict"]: row for row in count_verdicts(one) if (row["side"], row["features"]) == ("parent", ALL)}
    kept = rows["kept"]
    row = {"root": one.parent, "placebo": one.child, "fine_tunes": ", ".join(fine_tunes), "seed": one.seed}
    row |= {"living": kept["living"]} | {word: rows[word]["count"] for word in VERDICTS}
    row |= {name: kept[name] for name in ("share", "low", "high")} | {"persisting_share": None}
    if len(one.sides()) > 1:
        parent = one.judged.filter(pc.equal(one.judged["side"], "parent"))
        matched = numbers(parent, "match_r")[parent["verdict"].is_valid().to_numpy()] > threshold
        row["persisting_share"] = float(matched.mean()) if len(matched) else None
    else:
        row["found"] = None
    row |= {f"weights_{name}": weights[name] for name in ("all", "hooked_block")}
    row |= {f"own_{name}": value for name, value in reading["own"].items()}
    return row | dict(reading["other"])
