"""The counts of the flow with their intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.flow.bootstrap import interval
from feature_lineage.flow.fates import EDGES


def with_intervals(edges: pa.Table, replicates: Sequence[pa.Table]) -> pa.Table:
    """Give each row of an edge table the 95 % intervals of its two shares; emerging is what does not persist.

    Args:
        edges: table of schema `EDGES`.
        replicates: tables of `bootstrap.bootstrap_flow`, one for each row; none at all leaves the intervals null.
    """
    rows = edges.to_pylist()
    for row, table in zip(rows, replicates, strict=True) if replicates else ():
        if row["persisting_share"] is not None and (found := interval(table, "parent", row["persisting_share"])):
            row["persisting_low"], row["persisting_high"] = found
        if row["emerging_share"] is not None and (found := interval(table, "child", 1 - row["emerging_share"])):
            row["emerging_low"], row["emerging_high"] = 1 - found[1], 1 - found[0]
    return pa.Table.from_pylist(rows, EDGES)


def summarise_flows(edges: pa.Table, lineages: pa.Table, models: Sequence[str], threshold: float) -> dict[str, Any]:
    """Counts for people and for the Sankey: edges of all seeds; living features by origin, and bands, of the first seed.

    Args:
        edges: table of schema `EDGES`.
        lineages: table of schema `LINEAGES`.
        models: all models, parents before children.
        threshold: correlation above which two features are the same.
    """
    first = lineages.filter(pc.equal(lineages["seed"], lineages["seed"][0]))
    pairs = Counter(
        zip(first["model"].to_pylist(), first["origin"].to_pylist(), strict=True)
    )  # the dead have no origin
    return {
        "threshold": threshold,
        "models": list(models),
        "edges": edges.to_pylist(),
        "origins": {model: {name: pairs[model, name] for name in models if (model, name) in pairs} for model in models},
        "bands": _bands(first),
    }


def _bands(lineages: pa.Table) -> list[dict[str, Any]]:
    """How many features of `child` have their ancestor in `parent`, by the model that they go back to."""
    counts: dict[tuple[str, str, str], int] = {}
    for row in lineages.to_pylist():
        if row["chain"]:
            key = (row["chain"][0]["model"], row["model"], row["origin"])
            counts[key] = counts.get(key, 0) + 1
    return [{"parent": p, "child": c, "origin": o, "features": n} for (p, c, o), n in counts.items()]
