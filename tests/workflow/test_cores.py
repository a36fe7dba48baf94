"""The number of cores given to Snakemake changes no byte."""

from __future__ import annotations

TARGET = "results/tiny/correlations/validation/base.seed0--base.seed0.parquet"
FOLDERS = {"corpora", "correlations", "features", "models", "saes", "samples", "tokenizer", "tokens"}


def test_one_core_and_two_give_the_same_bytes(bare, copy, tmp_path):
    one = bare.copy(tmp_path / "one")
    for place, cores in ((one, "-c1"), (copy, "-c2")):
        run = place.snakemake(cores, TARGET)
        assert run.code == 0, run
    made = [path.relative_to(one.results) for path in one.results.rglob("*") if path.is_file() and path.name[0] != "."]
    made = sorted(path for path in made if path.parts[0] in FOLDERS)
    assert {path.parts[0] for path in made} == FOLDERS
    assert [str(path) for path in made if (one.results / path).read_bytes() != (copy.results / path).read_bytes()] == []
