"""The study as a folder that opens in a browser from disk, and its main numbers as text: `python -m feature_lineage.report results/<study>`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jinja2 import Environment, StrictUndefined
from plotly.offline import get_plotlyjs

from feature_lineage.autoencoders.gate import Warnings, failed_edges, judge, read_evaluations, sentences
from feature_lineage.explanations.verdict import families, verdict
from feature_lineage.meaning.categories import DEFINITIONS, RULE
from feature_lineage.printable import printable
from feature_lineage.report.browser import Features, write_browser, write_script
from feature_lineage.store.formats import read_json
from feature_lineage.store.writing import staged

HERE = Path(__file__).parent
LIBRARY = HERE / "page_files"  # the table of the feature browser, as its authors publish it
# Of scripts, the page's two and those that they load: none inline, none made of text, no other file. Plotly writes styles into the page;
# they can load nothing, as images are those alone that the page makes itself.
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}' 'strict-dynamic'; style-src 'self' file: 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
PARTS = ("assets", "data", "figures", "index.html")


def write_report(
    folder: str | Path,
    *,
    record: dict[str, Any],
    figures: Mapping[str, Mapping[str, Any]],
    shown: Sequence[tuple[str, int]],
    features: Iterable[Features],
    flow: pa.Table,
    lineages: pa.Table,
    sample: Mapping[str, np.ndarray],
    corpora: Sequence[str],
    vocabulary: Sequence[str],
    files: Sequence[Path],
    tracking: Mapping[str, pa.Table],
    **content: Any,
) -> None:
    """Write `index.html`, `assets/`, `data/` and `figures/`; what an earlier report left there is removed. No request leaves the folder.

    Args:
        folder: where to; nothing appears there before all of it is written.
        record: provenance, shown at the end of the page.
        figures: plotly figures by the name of their place on the page, `sankey` (`figures.sankey`) among them.
        shown: model and seed of the autoencoders in the feature browser.
        features: what it shows of each (`browser.read_features`).
        flow: fates along each edge, `fates.FEATURES`.
        lineages: chains of ancestors, `fates.LINEAGES`.
        sample: the sample's `tokens` and `corpus` of each window.
        corpora: names of the sample's corpora, in their order.
        vocabulary: text of each token (`vocabulary.token_texts`).
        files: each figure's images and its numbers, `<figure>.<kind>`: copied, and linked under the figure.
        tracking: of each case, the features that it was followed to (`cases.TRACKING`).
        content: `study`, `summary`, `controls` (`summary.summarise`, or None), `not_measured`, `strata`, `baselines`, `merges`, `models`,
            `saes` and `started` (model, seed and evaluation of each autoencoder, as `gate.judge` takes them), `categories` (a table, or None), `cases`, `interpretations` (tables of `Features.interpretations` by model and seed)
            `init` (how autoencoders start, `autoencoder.init`) and `steps`, as the template reads them.
    """
    summary = content["summary"]
    warnings = judge([*content["saes"], *content["started"]])
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _percent,
        "correlation": _correlation,
        "count": "{:,}".format,
        "visible": visible,
    }
    node = figures["sankey"]["data"][0]["node"]
    palette = {origin: colour for (*_, origin), colour in zip(node["customdata"], node["color"], strict=True)}
    above: dict[str, set[str]] = {}
    for edge in summary["edges"]:
        above.setdefault(edge["child"], set()).add(edge["parent"])
    # Texts in the page were there before it, and the digest depends on them: none can hold it.
    nonce = record["digest"]
    derived = {
        "nonce": nonce,
        "policy": POLICY.format(nonce=nonce),
        "warnings": sentences(warnings),
        "quote": quote(summary, content["controls"], content["not_measured"], warnings),
        "headline": headline(summary, warnings),
        "overview": edge_shares(summary, warnings),
        "left_out": left_out(summary),
        "ceilings": ceilings(content["controls"]),
        "drawn": set(figures),
        "files": {name: [file.name for file in files if file.stem == name] for name in figures},
        "tracked": set(tracking),
        "palette": palette,
        "two_parents": [child for child, parents in above.items() if len(parents) > 1],
        "groups": category_rows(content["categories"]),
        "category_rule": RULE,
        "category_definitions": DEFINITIONS,
        "scores": score_rows(content["interpretations"]),
        "interpreted": interpreted(content["interpretations"], lineages),
        "record": record,
    }
    page = environment.from_string((HERE / "page.html").read_text(encoding="utf-8")).render(content | derived)
    with staged(folder) as temporary:
        data, assets = temporary / "data", temporary / "assets"
        models = list(summary["models"])
        places = sample["tokens"], sample["corpus"]
        names = write_browser(data, features, flow, lineages, *places, models, corpora, len(shown), vocabulary)
        write_script(data / "vocabulary.js", "vocabulary", vocabulary)
        study = {
            "models": models,
            "autoencoders": [{"model": model, "seed": seed} for model, seed in shown],
            "interpreted": bool(content["interpretations"]),
            "figures": {name: _plain(figure) for name, figure in figures.items()},
        }
        write_script(data / "study.js", "study", study | names)
        _write_files(temporary / "figures", files, tracking)
        assets.mkdir()
        names = {"page.css": "report.css", "page.js": "report.js", "LICENSE": "tabulator.LICENSE.txt"}
        for file in (HERE / "page.css", HERE / "page.js", *sorted(LIBRARY.iterdir())):
            shutil.copyfile(file, assets / names.get(file.name, file.name))
        (assets / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
        (temporary / "index.html").write_text(page, encoding="utf-8")
        for part in PARTS:
            path = Path(folder) / part
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _write_files(folder: Path, files: Sequence[Path], tracking: Mapping[str, pa.Table]) -> None:
    """Copy what figures are made into, and write each case as `case-<name>.csv`, its top tokens as JSON."""
    folder.mkdir()
    for file in files:
        shutil.copyfile(file, folder / file.name)
    for case, table in tracking.items():
        frame = table.to_pandas()
        frame["top_tokens"] = [json.dumps(found, ensure_ascii=False) for found in table["top_tokens"].to_pylist()]
        frame.to_csv(folder / f"case-{case}.csv", index=False)


def _plain(figure: Mapping[str, Any]) -> dict[str, Any]:
    """A figure without its provenance, title and template: the page has titles and colours of its own."""
    layout = {key: value for key, value in figure["layout"].items() if key not in ("template", "title")}
    return {"data": figure["data"], "layout": layout}


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None or share != share else f"{share:.{digits}%}"


def _correlation(r: float | None) -> str:
    return "–" if r is None or r != r else f"{r:.3f}"


def visible(token: str) -> str:
    """A token's text with its line breaks, tabs and other control characters drawn, and its blanks where there is nothing else."""
    text = printable(token.replace("\r", "␍").replace("\n", "↵").replace("\t", "⇥"))
    return text if text.strip("↵⇥␍ ") else text.replace(" ", "·")


# --- sentences ---------------------------------------------------------------------------------------------


def ceilings(controls: Mapping[str, Any] | None) -> dict[str, float]:
    """Share of its features that two autoencoders of each model have in common, where it was measured."""
    return {row["model"]: row["ceiling"] for row in (controls or {}).get("ceilings", [])}


def edge_shares(summary: Mapping[str, Any], warnings: Warnings) -> list[dict[str, Any]]:
    """For each edge its `parent`, `child`, the `shares` that persist by autoencoder seed, their mean, `share`, and whether a
    dictionary of it `failed`."""
    found: dict[tuple[str, str], list[float]] = {}
    for edge in summary["edges"]:
        shares = found.setdefault((edge["parent"], edge["child"]), [])
        shares += [] if edge["persisting_share"] is None else [edge["persisting_share"]]
    failed = {(parent, child) for parent, child, _ in failed_edges(summary["edges"], warnings)}
    return [
        {
            "parent": parent,
            "child": child,
            "shares": shares,
            "share": sum(shares) / len(shares) if shares else None,
            "failed": (parent, child) in failed,
        }
        for (parent, child), shares in found.items()
    ]


def quote(
    summary: Mapping[str, Any],
    controls: Mapping[str, Any] | None,
    not_measured: Mapping[str, str],
    warnings: Warnings,
) -> str:
    """The study in one sentence: what persists along the first edge whose dictionaries pass, the mean over seeds, and what two
    autoencoders of the parent share."""
    if not summary["edges"]:
        return "No model of this study comes from another: there is nothing that its features could persist into."
    edge = next((edge for edge in edge_shares(summary, warnings) if not edge["failed"]), None)
    if edge is None:
        return "There is no finding: along every edge, a dictionary fails its checks."
    parent, share = edge["parent"], _percent(edge["share"])
    ceiling = ceilings(controls).get(parent)
    if ceiling is None:
        reason = not_measured.get("ceiling")
        shared = "was not measured" + (f" ({reason})" if reason else "")
        return f"{share} of {parent}'s features persist into {edge['child']}; what two autoencoders of {parent} itself share {shared}."
    return (
        f"{share} of {parent}'s features persist into {edge['child']}; "
        f"two autoencoders of {parent} itself share {_percent(ceiling)}."
    )


def headline(summary: Mapping[str, Any], warnings: Warnings) -> list[str]:
    """The study's main numbers, a sentence per edge and per model that has ancestors; none of an edge of which a dictionary failed."""
    lines = []
    failed = failed_edges(summary["edges"], warnings)
    for edge in summary["edges"]:
        seed = f" (autoencoder seed {edge['seed']})" if len({e["seed"] for e in summary["edges"]}) > 1 else ""
        name = f"{edge['parent']} → {edge['child']}{seed}"
        if (edge["parent"], edge["child"], edge["seed"]) in failed:
            lines.append(f"{name}: no finding, since a dictionary fails its checks.")
            continue
        alive = edge["parent_features"] - edge["parent_dead"]
        low, high = edge["persisting_low"], edge["persisting_high"]
        between = "" if low is None else f", 95 % interval {_percent(low)} to {_percent(high)}"
        lines.append(
            f"{name}: {edge['parent_persisting']:,} of {alive:,} features persist "
            f"({_percent(edge['persisting_share'])}{between}), {edge['disappearing']:,} disappear, {edge['emerging']:,} emerge."
        )
    lines += left_out(summary)
    unsound = {model for model, _ in warnings}
    for model, origins in summary["origins"].items():
        inherited = {origin: count for origin, count in origins.items() if origin != model}
        if inherited and not unsound & _line(summary, model):
            parts = ", ".join(f"{count:,} from {origin}" for origin, count in inherited.items())
            lines.append(
                f"{model}: {sum(inherited.values()):,} of {sum(origins.values()):,} features have an ancestor: {parts}."
            )
    return lines


def _line(summary: Mapping[str, Any], model: str) -> set[str]:
    """A model and all that it comes from."""
    found: set[str] = set()
    left = [model]
    while left:
        found.add(name := left.pop())
        left += [edge["parent"] for edge in summary["edges"] if edge["child"] == name and edge["parent"] not in found]
    return found


def left_out(summary: Mapping[str, Any]) -> list[str]:
    """For each model and seed with features on too few tokens, how many were left out for that: a sentence."""
    found: dict[tuple[str, int], str] = {}
    several = len({edge["seed"] for edge in summary["edges"]}) > 1
    for edge in summary["edges"]:
        seed = f" (autoencoder seed {edge['seed']})" if several else ""
        for side in ("parent", "child"):
            if rare := edge.get(f"{side}_rare"):  # tables of earlier versions lack it
                found[edge[side], edge["seed"]] = (
                    f"{edge[side]}{seed}: {rare:,} features that fire on fewer than {edge['min_active']:,} tokens (flow.min_active) are left out."
                )
    return list(found.values())


def category_rows(table: pa.Table | None) -> list[dict[str, Any]]:
    """Categories of features by their fate, for each edge, seed and side; shares in all and by corpus.

    Args:
        table: counts of features: `parent`, `child`, `seed`, `side`, `category`, `corpus`, `fate`, `features`.
    """
    if table is None:
        return []
    frame = table.to_pandas()
    frame = frame[frame["fate"] != "dead"]
    found = []
    for (parent, child, seed, side), rows in frame.groupby(["parent", "child", "seed", "side"], sort=False):
        corpora = list(dict.fromkeys(rows["corpus"]))
        lines = []
        for category, part in rows.groupby("category"):
            by_corpus = {name: _persisting(group) for name, group in part.groupby("corpus")}
            lines.append(
                {"category": category, **_persisting(part), "corpora": [by_corpus.get(name) for name in corpora]}
            )
        lines.sort(key=lambda line: -line["features"])
        edge = {"parent": parent, "child": child, "seed": seed, "side": side}
        total = int(rows["features"].sum())
        found.append(edge | {"corpora": corpora, "features": total, "rows": lines})
    return found


def _persisting(rows: pd.DataFrame) -> dict[str, Any]:
    features = int(rows["features"].sum())
    persisting = int(rows.loc[rows["fate"] == "persisting", "features"].sum())
    return {"features": features, "persisting": persisting, "share": persisting / features if features else None}


_SCORES = ("simulation", "detection", "shuffled", "token_mean")


def score_rows(tables: Mapping[tuple[str, int], pa.Table]) -> list[dict[str, Any]]:
    """Mean scores of explanations and of the token statistics, by model, seed and fate; missing scores are counted, not zero.

    Simulation, shuffled and token mean are compared with each other: their means are over the features that have all that were measured.
    """
    rows = []
    for (model, seed), table in tables.items():
        for fate, part in table.to_pandas().groupby("fate", sort=False):
            compared = [name for name in _SCORES if name != "detection" and part[name].notna().any()]
            shared = part[compared].notna().all(axis=1)
            means = {name: _mean(part[name] if name == "detection" else part.loc[shared, name]) for name in _SCORES}
            counts = {
                "features": len(part),
                "explained": int(part["explanation"].notna().sum()),
                "scored": int((shared & part["simulation"].notna()).sum()),
            }
            rows.append({"model": model, "seed": seed, "fate": fate} | counts | means)
    return rows


def _mean(column: pd.Series) -> float | None:
    found = column.dropna()
    return float(found.mean()) if len(found) else None


def interpreted(tables: Mapping[tuple[str, int], pa.Table], lineages: pa.Table) -> dict[str, Any]:
    """What the scores come to (`verdict.verdict`), the language models that were asked, and USD that their replies cost."""
    if not tables:
        return {}
    of = families(lineages)
    columns = [
        "feature",
        "fate",
        "explanation",
        "simulation",
        "shuffled",
        "token_mean",
        "reason",
        "model_used",
        "cost_usd",
    ]
    frames = []
    for (model, seed), table in tables.items():
        frame = table.select(columns).to_pandas()
        alone = (f"{model}/{seed}/row {row}" for row in range(len(frame)))
        names = zip(frame["feature"], alone, strict=True)
        frames.append(frame.assign(family=[of.get((model, seed, feature), own) for feature, own in names]))
    frame = pd.concat(frames, ignore_index=True)
    asked = sorted(frame["model_used"].dropna().unique())
    return {"verdict": verdict(frame), "asked": asked, "usd": float(frame["cost_usd"].sum())}


def main(folder: str, since: float = 0.0) -> None:
    """Print what falls short of a study's dictionaries, its main numbers, and where its report is: as much as there is so far.

    Args:
        folder: of the study.
        since: print no numbers if the report was written before this time, in seconds since the epoch: they may be of an earlier run.
    """
    place = Path(folder)
    page = place / "report" / "index.html"
    path = place / "flows" / "summary.json"
    summary = read_json(path) if path.exists() else None
    evaluations = read_evaluations(place)
    if summary:  # dictionaries of models that the study no longer has may still lie there
        evaluations = [row for row in evaluations if set(row[0].split("--")) <= set(summary["models"])]
    warnings = judge(evaluations)
    if lines := sentences(warnings):
        print("\nWARNING: no finding can rest on these dictionaries")
        for line in lines:
            print(" ", line)
    if summary is None or (since and not (page.exists() and page.stat().st_mtime >= since)):
        return
    path = place / "controls" / "summary.json"
    controls = read_json(path) if path.exists() else None
    print("\n" + quote(summary, controls, (controls or {}).get("not_measured", {}), warnings))
    paths = {model: place / "models" / model / "evaluation.json" for model in summary["models"]}
    _print_accuracy({model: read_json(path)["corpora"] for model, path in paths.items() if path.exists()})
    if lines := headline(summary, warnings):
        print("\nfeatures with a correlation above", summary["threshold"])
        for line in lines:
            print(" ", line)
    print("\nreport:", page.resolve())


def _print_accuracy(models: Mapping[str, Mapping[str, Any]]) -> None:
    if not models:
        return
    corpora = list(next(iter(models.values())))
    width = max(map(len, ["accuracy", *models]))
    print("\n" + "accuracy".ljust(width), *(corpus.rjust(9) for corpus in corpora))
    for model, found in models.items():
        cells = (f"{found[corpus]['accuracy']:9.1%}".rjust(max(9, len(corpus))) for corpus in corpora)
        print(model.ljust(width), *cells)


def parameters(records: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Parameters of the steps of a run from their provenance: one flat list of keys and values for each."""
    return [(step, list(_flat(record["parameters"]))) for step, record in records.items()]


def _flat(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in sorted(values.items()):
        listed = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if plain := [item for item in listed if not isinstance(item, Mapping) and item is not None and key != "code"]:
            yield f"{above}{key}", plain[0] if listed is not value else ", ".join(map(_one, plain))
        for item in listed:
            if isinstance(item, Mapping):
                yield from _flat(item, f"{above}{key}.")


def _one(value: Any) -> str:
    return " → ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
