"""Several jobs that share the work of one correlation end in the same file as one."""

from __future__ import annotations

CORRELATIONS = "results/tiny/correlations/validation/base.seed0--coder.seed0.parquet"


def test_four_parts_give_the_same_file_as_one_job(copy):
    one = (copy.root / CORRELATIONS).read_bytes()
    copy.config["flow"]["parts"] = 4
    run = copy.snakemake("-c2", CORRELATIONS)
    assert run.code == 0, run
    assert len(list((copy.results / "logs" / "correlate_part").iterdir())) == 4
    assert (copy.root / CORRELATIONS).read_bytes() == one
    left = [path.name for path in (copy.root / CORRELATIONS).parent.iterdir() if ".part" in path.name]
    assert left == []
