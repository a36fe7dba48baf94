"""The study as a folder that opens in a browser from disk, and its main numbers as text: `python -m feature_lineage.report results/<study>`."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from feature_lineage.autoencoders.gate import Warnings, judge, read_evaluations, sentences
from feature_lineage.explanations.verdict import families, verdict
from feature_lineage.meaning.categories import DEFINITIONS, RULE
from feature_lineage.printable import printable
from feature_lineage.report.answers import UNMATCHED, VERDICTS, answers, ceilings, lineage
from feature_lineage.report.browser import Browsed, write_browser, write_script
from feature_lineage.report.data import Drawn, Findings, Run, Trained
from feature_lineage.report.definitions import NUMBERS
from feature_lineage.report.merges import merge_sections
from feature_lineage.report.sentences import (
    first_sound,
    headline,
    kept_lines,
    kept_sentence,
    left_out,
    matched_lines,
    matched_sentence,
    percent,
    placebo_sentences,
    points,
    quote,
    reading_sentences,
)
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
    folder: str | Path, *, run: Run, trained: Trained, findings: Findings, drawn: Drawn, browsed: Browsed
) -> None:
    """Write `index.html`, `assets/`, `data/` and `figures/`; what an earlier report left there is removed. No request leaves the folder.

    Args:
        folder: where to; nothing appears there before all of it is written.
        run: which study was run.
        trained: its models.
        findings: what the page says of it.
        drawn: the page's figures.
        browsed: what the feature browser shows.
    """
    page = _page(run, trained, findings, drawn, browsed)
    with staged(folder) as temporary:
        models = list(findings.summary["models"])
        data = temporary / "data"
        names = write_browser(data, browsed, models)
        write_script(data / "vocabulary.js", "vocabulary", browsed.vocabulary)
        study = {
            "models": models,
            "autoencoders": [{"model": model, "seed": seed} for model, seed in browsed.shown],
            "interpreted": bool(findings.interpretations),
            "figures": {name: _plain(figure) for name, figure in drawn.figures.items()},
        }
        write_script(data / "study.js", "study", study | names)
        _write_files(temporary / "figures", drawn.files, drawn.tracking)
        _write_assets(temporary / "assets")
        (temporary / "index.html").write_text(page, encoding="utf-8")
        for part in PARTS:
            path = Path(folder) / part
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _page(run: Run, trained: Trained, findings: Findings, drawn: Drawn, browsed: Browsed) -> str:
    """The text of `index.html`."""
    summary, controls = findings.summary, findings.controls
    warnings = judge([*trained.saes, *trained.started])
    # Texts in the page were there before it, and the digest depends on them: none can hold it.
    nonce = run.record["digest"]
    derived = {
        "nonce": nonce,
        "policy": POLICY.format(nonce=nonce),
        "warnings": sentences(warnings),
        **_answered(findings, warnings, browsed.flow),
        "left_out": left_out(summary),
        "ceilings": ceilings(controls),
        "drawn": set(drawn.figures),
        "files": {name: [file.name for file in drawn.files if file.stem == name] for name in drawn.figures},
        "tracked": set(drawn.tracking),
        "two_parents": [child for child, count in _parents(summary).items() if count > 1],
        "merged": merge_sections(trained.merges),
        "groups": category_rows(findings.categories),
        "category_rule": RULE,
        "category_definitions": DEFINITIONS,
        "scores": score_rows(findings.interpretations),
        "interpreted": interpreted(findings.interpretations, browsed.lineages),
    }
    return _environment().get_template("page.html").render(vars(run) | vars(trained) | vars(findings) | derived)


def _answered(findings: Findings, warnings: Warnings, flow: pa.Table) -> dict[str, Any]:
    """What the first screen says, and what stands beside every table and figure of an edge."""
    summary, controls, not_measured = findings.summary, findings.controls, findings.not_measured
    found = answers(summary, controls, warnings, flow)
    sound = [edge for edge in found if not edge.failed]
    first = first_sound(found)
    said = [matched_sentence(first, not_measured), *reading_sentences(first)] if first else []
    return {
        "answers": found,
        "sound": sound,
        "quote": kept_sentence(first) if first else quote(summary, controls, not_measured, warnings),
        "lead": said,
        "first": first,
        "headline": headline(summary, controls, not_measured, warnings),
        "kept_lines": kept_lines(sound),
        "kept_notes": {(edge.parent, edge.child): line for edge in found for line in kept_lines([edge])},
        "matched_notes": {(edge.parent, edge.child): line for edge in found for line in matched_lines([edge])},
        "matched_lines": matched_lines(sound),
        "remarks": placebo_sentences(sound)
        + [line for edge in sound if edge != first for line in reading_sentences(edge)],
        "intervals": any(became.kept.edge.low is not None for edge in sound for became in edge.became.values()),
        "found_ceilings": {edge.parent: edge.matched.ceiling for edge in sound if edge.matched},
        "by_edge": {(edge.parent, edge.child): edge for edge in found},
        "verdict_rows": verdict_rows(summary),
        "numbers": NUMBERS,
        "verdict_names": VERDICTS,
    }


def verdict_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdicts of each edge, seed, side and kind of features, side by side: `verdicts` has the row of each."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in summary.get("verdicts", ()):
        key = {name: row[name] for name in ("parent", "child", "seed", "side", "features", "living", "placebo")}
        found.setdefault(tuple(key.values()), key | {"verdicts": {}})["verdicts"][row["verdict"]] = row
    return list(found.values())


def _parents(summary: Mapping[str, Any]) -> dict[str, int]:
    """How many parents each child has."""
    return Counter(child for _, child in lineage(summary))


def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FileSystemLoader(HERE)
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "correlation": _correlation,
        "count": "{:,}".format,
        "visible": visible,
    }
    return environment


def _write_assets(folder: Path) -> None:
    """Copy the page's styles and scripts, and those of others that it loads."""
    folder.mkdir()
    names = {"page.css": "report.css", "page.js": "report.js", "LICENSE": "tabulator.LICENSE.txt"}
    for file in (HERE / "page.css", HERE / "page.js", *sorted(LIBRARY.iterdir())):
        shutil.copyfile(file, folder / names.get(file.name, file.name))
    (folder / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")


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


def _correlation(r: float | None) -> str:
    return "–" if r is None or r != r else f"{r:.3f}"


def visible(token: str) -> str:
    """A token's text with its line breaks, tabs and other control characters drawn, and its blanks where there is nothing else."""
    text = printable(token.replace("\r", "␍").replace("\n", "↵").replace("\t", "⇥"))
    return text if text.strip("↵⇥␍ ") else text.replace(" ", "·")


# --- numbers -----------------------------------------------------------------------------------------------


def category_rows(table: pa.Table | None) -> list[dict[str, Any]]:
    """Categories of features by verdict and by fate, for each edge, seed and side; shares in all and by corpus.

    Args:
        table: counts of features, `categories.COUNTS`.
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
            by_corpus = {name: _counted(group) for name, group in part.groupby("corpus")}
            lines.append({"category": category, **_counted(part), "corpora": [by_corpus.get(name) for name in corpora]})
        lines.sort(key=lambda line: -line["features"])
        edge = {"parent": parent, "child": child, "seed": seed, "side": side}
        total = int(rows["features"].sum())
        found.append(edge | {"corpora": corpora, "features": total, "rows": lines})
    return found


def _counted(rows: pd.DataFrame) -> dict[str, Any]:
    """How many features there are, share of each verdict and of the new, and what persists by the paper's measure."""
    features = int(rows["features"].sum())

    def share(which: pd.Series) -> float | None:
        return int(rows.loc[which, "features"].sum()) / features if features else None

    persisting = int(rows.loc[rows["fate"] == "persisting", "features"].sum())
    matched = not rows["fate"].eq(UNMATCHED).any()
    verdicts = {verdict: share(rows["verdict"] == verdict) for verdict in VERDICTS}
    return {
        "features": features,
        "persisting": persisting,
        "share": persisting / features if features and matched else None,
        "verdicts": verdicts,
        "new": share(rows["new"].eq(True)),
    }


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
    not_measured = (controls or {}).get("not_measured", {})
    print("\n" + quote(summary, controls, not_measured, warnings))
    paths = {model: place / "models" / model / "evaluation.json" for model in summary["models"]}
    _print_accuracy({model: read_json(path)["corpora"] for model, path in paths.items() if path.exists()})
    if lines := headline(summary, controls, not_measured, warnings):
        print(f"\nedge by edge, where r above {summary['threshold']:g} is the same feature")
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
