"""Part `project` of gpu.py: the time of the paper's whole study on this GPU, from the rates that the other parts have measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# The study of config/paper.yaml. How many tokens a fine-tune reads is published nowhere; as many as one of the base's corpora is assumed.
BASE, FINE_TUNE = 3 * 335.6e6, 168e6
AUTOENCODER, SAMPLE, EVALUATED, CORPORA = 15e6, 3e6, 1e5, 4
MODELS, SEEDS, EDGES, POINTS = 4, 2, 4, 101
CORRELATION = 45.0  # s, on a CPU, of the paper's size (`make bench-correlation`)


def steps(rates: dict[str, float]) -> list[tuple[str, float, str]]:
    """(step, jobs, seconds of each) of the study with its ceiling, in order."""
    lm = rates.get("lm bfloat16") or rates["lm float32"]
    start = rates["process"]
    autoencoders = MODELS * SEEDS
    return [
        ("train the base", 1, start + BASE / lm),
        ("train the fine-tunes", 2, start + FINE_TUNE / lm),
        ("sweep and merge", 1, start + POINTS * CORPORA * EVALUATED / rates["sweep"]),
        ("train autoencoders", autoencoders, start + AUTOENCODER / rates["sae tokens"]),
        ("evaluate autoencoders", autoencoders, start + CORPORA * EVALUATED / rates["evaluation"]),
        ("collect features", autoencoders, start + SAMPLE / rates["features"]),
        ("correlate", EDGES * SEEDS + MODELS, CORRELATION),
        ("the other steps, their starts alone", 40, start),
    ]


def main() -> None:
    """Read the rates, and append the projection."""
    path = Path(sys.argv[2]) / "results.jsonl"
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rates = {line["key"]: line["value"] for line in lines if "key" in line}
    total = 0.0
    with path.open("a", encoding="utf-8") as file:

        def record(what: str, value: float | str, unit: str, note: str = "") -> None:
            print(json.dumps({"part": "project", "what": what, "value": value, "unit": unit, "note": note}), file=file)

        try:
            found = steps(rates)
        except KeyError as lacking:
            return record(
                "the paper's study", "not projected", "", f"the rate {lacking} is not measured: run lm and chain first"
            )
        for what, jobs, seconds in found:
            record(what, jobs * seconds / 60, "min", f"{jobs} × {seconds:.0f} s")
            total += jobs * seconds / 60
        record("the paper's study, one job after another", total, "min", "correlations as measured on a CPU")


if __name__ == "__main__":
    main()
