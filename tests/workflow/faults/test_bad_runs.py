"""Bad inputs through Snakemake, as a user would meet them: one line each that names the file and the way out, no traceback."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_study import SNAKEMAKE, STUDY, Run, environment

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder, save_autoencoder
from feature_lineage.models.checkpoint import build_model, save_model
from feature_lineage.study.keys import Architecture

WHOLE = yaml.safe_dump(STUDY, sort_keys=False)
CONFIG_FILES = {
    # content of the file, what Snakemake says
    "empty": ("", "keys at top level"),
    "tab": (WHOLE.replace("threads: 1", "threads:\t1\n\tseed: 1"), "not valid JSON or YAML"),
    "code": (WHOLE + 'seed: !!python/object/apply:os.system ["touch it-ran"]\n', "not valid JSON or YAML"),
    "twice": (WHOLE + "seed: 1\nseed: 2\n", "seed: found in lines"),
    "on-and-off": (WHOLE + "no: 1\non: 2\nnull: 3\n", "False: found False; allowed: a name; quotes make one"),
}


def errors(run):
    """What the jobs themselves said, one line each."""
    return re.findall(r"\d\d:\d\d:\d\d ERROR (.*)", run.output)


def told(run, *words):
    found = [error for error in errors(run) if all(word in error for word in words)]
    assert len(found) == 1, f"{words} in {len(found)} errors\n{run}"


@pytest.fixture(scope="module")
def place(bare, tmp_path_factory):
    return bare.copy(tmp_path_factory.mktemp("bad") / "place")


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_a_config_file_that_is_none_runs_nothing(place, name):
    content, said = CONFIG_FILES[name]
    (place.root / f"{name}.yaml").write_text(content)
    command = [str(SNAKEMAKE), "-n", "--configfile", f"{name}.yaml"]
    done = subprocess.run(command, cwd=place.root, env=environment(), capture_output=True, text=True)
    run = Run(done.returncode, done.stdout + done.stderr)
    assert run.refused(), run
    assert said in run.output, run
    assert not (place.root / "results").exists()
    assert not (place.root / "it-ran").exists()


def test_documents_that_cannot_be_read_are_named_each_by_its_own_job(bare, tmp_path):
    place = bare.copy(tmp_path / "place")
    data = place.root / "data"
    (data / "wide.txt").write_bytes("text".encode("utf-16-le"))
    (data / "one.txt").write_text("one document")
    (data / "empty.jsonl.gz").write_bytes(b"")
    (data / "packed.txt").write_bytes(gzip.compress(b"text"))
    shutil.copy(data / "prose.jsonl", data / "prose[1].jsonl")
    place.config["corpora"] |= {
        "wide": {"files": "data/wide.txt"},
        "one": {"files": "data/one.txt"},
        "empty": {"files": "data/empty.jsonl.gz"},
        "packed": {"files": "data/packed.txt"},
        "folder": {"files": "data/code"},
        "column": {"files": "data/prose.jsonl", "text": "body"},
        "brackets": {"files": "data/prose[1].jsonl", "validation": 0.2},
    }
    targets = {corpus: f"results/tiny/corpora/{corpus}/train.parquet" for corpus in place.config["corpora"]}
    for corpus in ("prose", "code"):
        del targets[corpus]
    run = place.snakemake("-c2", "--keep-going", *targets.values())
    assert run.refused(), run
    told(run, "data/wide.txt: ", "NUL characters", "convert")
    told(run, "corpus one: ", "left of 1 read", "corpora.one")
    told(run, "data/empty.jsonl.gz: ", "0 bytes", "replace")
    told(run, "data/packed.txt: ", "packed by gzip", "add .gz")
    told(run, "data/code: ", "a folder", "data/code/**/*.txt", "`files`")
    told(run, "data/prose.jsonl:1: ", "no key 'body', only 'text', 'topic'", "`text`")
    assert len(errors(run)) == len(targets) - 1, run
    assert [corpus for corpus, path in targets.items() if (place.root / path).exists()] == ["brackets"]


def test_models_and_autoencoders_that_do_not_fit_are_named_and_the_finished_study_stays(copy):
    tokenizer = copy.results / "tokenizer"
    shape = Architecture.model_validate(STUDY["models"]["base"]["architecture"]).model_dump()
    published = copy.root / "published"
    for name, changes in {"wide": {"intermediate_size": 96}, "deep": {"num_hidden_layers": 2}, "torn": {}}.items():
        save_model(build_model(shape | changes, tokenizer, 0), tokenizer, published / name, {})
    save_model(build_model(shape, tokenizer, 0), tokenizer, published / "few", {})
    few = json.loads((published / "few" / "config.json").read_text()) | {"vocab_size": 399}
    (published / "few" / "config.json").write_text(json.dumps(few))
    for name, names in {"few": ("model.embed_tokens.weight", "lm_head.weight"), "torn": ("model.norm.weight",)}.items():
        weights = published / name / "model.safetensors"
        tensors = load_file(weights)
        save_file(tensors | {key: tensors[key][:-1].contiguous() for key in names}, weights, metadata={"format": "pt"})
    copy.config["models"] |= {
        name: {"pretrained": f"published/{name}", "train": ["prose"]} for name in ("wide", "deep", "few", "torn")
    }
    copy.config["models"]["mixed"] = {"parents": ["wide", "deep"]}
    refused = copy.snakemake("-n")
    assert refused.code == 1 and "models.mixed.parents: found ['wide', 'deep']" in refused.output, refused
    assert "num_hidden_layers is 1 in models.wide, 2 in models.deep" in refused.output, refused
    del copy.config["models"]["mixed"]
    random = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=random)  # noqa: E731
    other = SparseAutoencoder(draw(16, 32), draw(32), draw(32, 16), draw(16))
    save_autoencoder(other, copy.results / "saes" / "coder" / "seed0", "blocks.0.mlp.hook_post", 8, {})
    before = {path: path.read_bytes() for path in copy.results.glob("models/*/model.safetensors")}

    targets = [f"results/tiny/models/{name}/config.json" for name in ("few", "torn")]
    targets.append("results/tiny/features/coder/seed0/validation/statistics.parquet")
    run = copy.snakemake("-c2", "--keep-going", *targets)
    assert run.refused(), run
    told(run, "model published/few: ", "399 tokens", "tokenizer 400", "`tokenizer`")
    told(run, "model published/torn: ", "mismatched", "model.norm.weight")
    told(run, "saes/coder/seed0/sae_weights.safetensors: ", "16 elements", "gives 64")
    assert len(errors(run)) == 3, run
    assert {path: path.read_bytes() for path in before} == before
