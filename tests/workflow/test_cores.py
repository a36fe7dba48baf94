"""The number of cores given to Snakemake changes no byte."""

from __future__ import annotations

import pytest

TARGET = "results/tiny/correlations/validation/base.seed0--coder.seed0.parquet"


@pytest.fixture(scope="module")
def one_core(bare, tmp_path_factory):
    place = bare.copy(tmp_path_factory.mktemp("cores") / "one")
    run = place.snakemake("-c1", TARGET)
    assert run.code == 0, run
    return place


def test_one_core_and_two_give_the_same_bytes(one_core, study):
    made = sorted(path.relative_to(one_core.results) for path in one_core.results.rglob("*") if path.is_file())
    made = [path for path in made if path.parts[0] not in ("logs", "benchmarks") and path.name[0] != "."]
    assert {path.parts[0] for path in made} == {
        "corpora", "correlations", "features", "models", "saes", "samples", "tokenizer", "tokens",
    }  # fmt: skip
    differ = [
        str(path) for path in made if (one_core.results / path).read_bytes() != (study.results / path).read_bytes()
    ]
    assert differ == []
