"""`benchmarks/gpu.py` runs to its end without a GPU, small; on a real one its numbers are read by people."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARK = ROOT / "benchmarks" / "gpu.py"
PARTS = ("probe", "exact", "lm", "sae", "chain", "project")


def run(*arguments):
    return subprocess.run([sys.executable, BENCHMARK, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def benchmark(monkeypatch_module):
    monkeypatch_module.syspath_prepend(BENCHMARK.parent)
    import gpu

    return gpu


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu")
    done = run("--tiny", "--device", "cpu", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()], out


@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs_to_its_end(tiny, part):
    lines = [line for line in tiny[1] if line["part"] == part]
    assert lines[-1]["what"] == "whole part"
    assert len(lines) > 3
    assert not [line for line in lines if line.get("passes") is False]


def test_what_the_gpu_computes_is_checked_in_every_way(tiny):
    """Each of these lines is a check with a bound, and not a number alone."""
    checked = {line["what"] for line in tiny[1] if line["part"] == "exact" and line.get("passes")}
    steps = {
        f"{what}, {kind} {path}"
        for what in ("loss", "gradients")
        for kind in ("l1", "topk", "batchtopk", "jumprelu")
        for path in ("sparse", "dense")
    }
    missed = {f"active entries missed, {kind} batches" for kind in ("random", "adversarial")}
    assert (
        steps | missed | {"evaluation", "features", "sweep", "neurons", "logit effects", "checkpoint, cpu to cpu"}
        <= checked
    )


def test_the_table_ends_the_run_and_is_kept(tiny):
    stdout, lines, out = tiny
    table = (out / "table.md").read_text()
    assert stdout.endswith(table)
    assert len(table.splitlines()) == len(lines) + 2
    assert "the paper's study, one job after another" in table


def test_a_part_that_takes_too_long_is_ended_and_named(benchmark, tmp_path, monkeypatch, capsys):
    """What it has measured by then is kept, and the parts after it run."""
    monkeypatch.setitem(benchmark.LIMITS, "probe", 0.01)
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--tiny", "--device", "cpu", "--out", str(tmp_path), "--parts", "probe", "project"]
    )
    with pytest.raises(SystemExit, match="not passed:\n  probe: whole part"):
        benchmark.main()
    lines = benchmark.read(tmp_path)
    assert "ended at its limit" in next(line["note"] for line in lines if line["part"] == "probe")
    assert any("run lm and chain first" in line.get("note", "") for line in lines)


def test_a_group_takes_nine_minutes_and_no_longer(tmp_path):
    done = run("--device", "cpu", "--out", tmp_path, "--parts", "lm", "sae")
    assert done.returncode != 0 and "may take more than 9 minutes" in done.stderr


def test_wheels_that_are_missing_are_listed_first(benchmark):
    assert benchmark.missing() == []
    assert benchmark.missing(("numpy>=999", "no-such-package>=1")) == [
        "no-such-package>=1 (for the benchmark)",
        f"numpy>=999, not {__import__('numpy').__version__}",
    ]


def test_what_is_missing_and_not_needed_stops_nothing(benchmark, tmp_path, monkeypatch, capsys):
    """Some packages require what nothing here imports; what does stop it is said before any part runs."""
    monkeypatch.setattr(benchmark, "missing", lambda: ["no-such-package (for another)"])
    monkeypatch.setattr(benchmark, "run", lambda part, options: None)
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--tiny", "--device", "cpu", "--out", str(tmp_path), "--parts", "probe"]
    )
    benchmark.main()
    assert "no-such-package" in capsys.readouterr().out
    monkeypatch.setattr(benchmark, "imports", lambda: False)
    with pytest.raises(SystemExit):
        benchmark.main()


def test_the_docstring_names_the_groups_and_what_to_carry(benchmark):
    for text in ("--parts probe exact", "--parts sae chain project", "transformer-lens", "sae-lens"):
        assert text in benchmark.__doc__
    for group in (("probe", "exact"), ("lm",), ("sae", "chain", "project")):
        assert sum(benchmark.LIMITS[part] for part in group) <= 9 * 60


def test_results_of_a_group_stand_beside_those_of_another_and_replace_their_own(benchmark, tmp_path):
    lines = [{"part": "lm", "what": "a", "value": 1}, {"part": "probe", "what": "b", "value": 2.5}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    benchmark.forget(tmp_path, ["lm"])
    assert benchmark.read(tmp_path) == lines[1:]
    assert "| probe | b | 2.5 |" in benchmark.table(lines)
