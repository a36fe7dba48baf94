"""The study as one static page, and its main numbers as text: `python -m feature_lineage.report results/<study>`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from feature_lineage.artifacts import KEY, read_json, staged

TEMPLATE = Path(__file__).with_suffix(".html")


def write_report(path: str | Path, *, record: dict[str, Any], **content: Any) -> None:
    """Write the page: no request leaves it, plotly's library is inside.

    Args:
        path: the HTML file.
        record: provenance, shown at the end of the page.
        content: `study`, `summary`, `sankey`, `curves`, `strata`, `controls` (`controls.summarise`, or None), `merges`, `training`,
            `autoencoders`, `models` and `saes`, as the template reads them.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "correlation": _correlation, "figure": _figure}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        content | {"headline": headline(content["summary"]), "record": record, "plotly": Markup(get_plotlyjs())}
    )
    with staged(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{share:.{digits}%}"


def _correlation(r: float | None) -> str:
    return "–" if r is None else f"{r:.3f}"


def _figure(figure: Mapping[str, Any]) -> Markup:
    """A figure as JSON that may stand inside a script element."""
    text = json.dumps({key: value for key, value in figure.items() if key != KEY})
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def headline(summary: Mapping[str, Any]) -> list[str]:
    """The study's main numbers, a sentence per edge and per model that has ancestors."""
    lines = []
    for edge in summary["edges"]:
        seed = f" (autoencoder seed {edge['seed']})" if len({e["seed"] for e in summary["edges"]}) > 1 else ""
        alive = edge["parent_features"] - edge["parent_dead"]
        low, high = edge["persisting_low"], edge["persisting_high"]
        between = "" if low is None else f", 95 % interval {_percent(low)} to {_percent(high)}"
        lines.append(
            f"{edge['parent']} → {edge['child']}{seed}: {edge['parent_persisting']:,} of {alive:,} features persist "
            f"({_percent(edge['persisting_share'])}{between}), {edge['disappearing']:,} disappear, {edge['emerging']:,} emerge."
        )
    for model, origins in summary["origins"].items():
        inherited = {origin: count for origin, count in origins.items() if origin != model}
        if inherited:
            parts = ", ".join(f"{count:,} from {origin}" for origin, count in inherited.items())
            lines.append(
                f"{model}: {sum(inherited.values()):,} of {sum(origins.values()):,} features have an ancestor: {parts}."
            )
    return lines


def main(folder: str) -> None:
    """Print where a study's report is, and its main numbers."""
    summary = read_json(Path(folder) / "flows" / "summary.json")
    models = {
        model: read_json(Path(folder) / "models" / model / "evaluation.json")["corpora"] for model in summary["models"]
    }
    corpora = list(next(iter(models.values())))
    width = max(map(len, ["accuracy", *models]))
    print("\n" + "accuracy".ljust(width), *(corpus.rjust(9) for corpus in corpora))
    for model, found in models.items():
        print(
            model.ljust(width),
            *(f"{found[corpus]['accuracy']:9.1%}".rjust(max(9, len(corpus))) for corpus in corpora),
        )
    print("\nfeatures with a correlation above", summary["threshold"])
    for line in headline(summary):
        print(" ", line)
    print("\nreport:", (Path(folder) / "report" / "index.html").resolve())


if __name__ == "__main__":
    main(*sys.argv[1:])
