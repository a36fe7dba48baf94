"""Documents that are missing, damaged or too small: an error that names the file and the way out, and a next run that goes on."""

from __future__ import annotations

import gzip
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_lineage.errors import InputError
from feature_lineage.text.windows import Windows

TEXTS = [f"Document {number}: " + "so many words " * 40 for number in range(300)]


def halve(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def errors(run):
    """What the jobs themselves said, one line each."""
    return re.findall(r"\d\d:\d\d:\d\d ERROR (.*)", run.output)


def one_error(run, *words):
    """The error that says all these words."""
    found = [error for error in errors(run) if all(word in error for word in words)]
    assert len(found) == 1, f"{words} in {len(found)} errors\n{run}"
    return found[0]


def visible(folder):
    return {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.exists() else set()


# --- documents ---------------------------------------------------------------------------------------------


def test_missing_empty_and_truncated_documents_are_named_and_once_mended_the_run_goes_on(bare, tmp_path):
    place = bare.copy(tmp_path / "place")
    data = place.root / "data"
    lines = "".join(f'{{"text": "{text}"}}\n' for text in TEXTS).encode()
    whole = {
        "packed.jsonl.gz": gzip.compress(lines),
        "lines.jsonl": lines,
        "code.py.gz": gzip.compress("\n".join(TEXTS).encode()),
    }
    for name, content in whole.items():
        (data / name).write_bytes(content)
    pq.write_table(pa.table({"text": TEXTS}), data / "table.parquet")
    whole["table.parquet"] = (data / "table.parquet").read_bytes()
    for name, content in whole.items():
        (data / name).write_bytes(content[: len(content) * 2 // 3])
    (data / "empty.jsonl").write_text("")
    place.config["corpora"] |= {
        "packed": {"files": "data/packed.jsonl.gz"},
        "lines": {"files": "data/lines.jsonl"},
        "code": {"files": ["data/code/*.py", "data/code.py.gz"]},
        "table": {"files": "data/table.parquet"},
        "empty": {"files": "data/empty.jsonl"},
        "none": {"files": "data/none/*.txt"},
    }
    broken = ["packed", "lines", "code", "table", "empty", "none"]
    targets = [f"results/tiny/corpora/{corpus}/train.parquet" for corpus in ["prose", *broken]]

    run = place.snakemake("-c2", "--keep-going", *targets)
    assert run.refused(), run
    for name in whole:
        error = one_error(run, f"data/{name}", "truncated")
        assert "replace" in error or "leave it out" in error, f"no way out is named: {error}"
    assert "empty" in one_error(run, "corpora.empty")
    assert "no such file" in one_error(run, "data/none/*.txt")
    assert len(errors(run)) == len(broken)
    assert visible(place.results / "corpora" / "prose") == {"train.parquet", "validation.parquet"}
    assert all(visible(place.results / "corpora" / corpus) == set() for corpus in broken)

    for name, content in whole.items():
        (data / name).write_bytes(content)
    (data / "empty.jsonl").write_bytes(lines)
    (data / "none").mkdir()
    for number, text in enumerate(TEXTS):
        (data / "none" / f"{number}.txt").write_text(text)
    assert set(place.plan(*targets)) == {f"build_corpus {corpus}" for corpus in broken}
    run = place.snakemake("-c2", *targets)
    assert run.code == 0, run


def test_a_file_named_and_missing_is_reported_before_any_job(bare, tmp_path):
    place = bare.copy(tmp_path / "place")
    place.config["corpora"]["prose"]["files"] = ["data/prose.jsonl", "data/more.jsonl"]
    run = place.snakemake("-c2")
    assert run.refused(), run
    assert "Missing input files for rule build_corpus" in run.output
    assert "data/more.jsonl" in run.output
    assert not (place.root / "results" / "tiny" / "corpora").exists()

    (place.root / "data" / "more.jsonl").write_text('{"text": "here it is"}\n')
    assert "build_corpus prose" in place.plan()


# --- less than asked ---------------------------------------------------------------------------------------


def test_corpora_smaller_than_asked_are_named_with_the_most_that_can_be_asked(copy):
    asked = {
        "autoencoder.tokens": "results/tiny/saes/coder/seed0/sae_weights.safetensors",
        "flow.tokens": "results/tiny/samples/validation.safetensors",
        "models.writer.training.tokens": "results/tiny/models/writer/model.safetensors",
    }
    blocks = (copy.config["autoencoder"], copy.config["flow"], copy.config["models"]["writer"]["training"])
    for block in blocks:
        block["tokens"] = 50_000_000

    run = copy.snakemake("-c2", "--keep-going", *asked.values())
    assert run.refused(), run
    assert len(errors(run)) == len(asked), run
    most = []
    for key, target in asked.items():
        error = one_error(run, f"{key} needs", "results/tiny/tokens/prose/", "smaller than asked")
        most.append(int(re.search(rf"set {key} to at most ([\d,]+)", error)[1].replace(",", "")))
        assert not (copy.root / target).exists()

    tokens = copy.results / "tokens"
    both = [Windows({c: tokens / c / split for c in ("prose", "code")}, 8) for split in ("train", "validation")]
    drawn = [(both[0], False), (both[1], True), (Windows({"prose": tokens / "prose" / "train"}, 32), False)]
    for (windows, balance), number in zip(drawn, most, strict=True):
        windows.sample(number, 0, "key", balance)
        with pytest.raises(InputError):
            windows.sample(number + 2 * windows.length, 0, "key", balance)

    copy.config["flow"]["tokens"] = most[1]
    run = copy.snakemake("-c2", asked["flow.tokens"])
    assert run.code == 0, run
