"""Artefacts that were truncated, emptied or have one bit flipped: who reads them names the file and the way out, always."""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_study import STUDY

from feature_lineage.autoencoders.autoencoder import load_autoencoder
from feature_lineage.controls import alignment_null as alignment_null_module
from feature_lineage.controls import as_published as as_published_module
from feature_lineage.controls import baselines
from feature_lineage.controls import ceiling as ceiling_module
from feature_lineage.controls import neurons as neurons_module
from feature_lineage.errors import InputError
from feature_lineage.features.activations import ActivationFile
from feature_lineage.flow.correlation import PARTIAL_SUMS, merge_parts
from feature_lineage.meaning.cases import _contexts, read_fates, read_sample
from feature_lineage.meaning.contexts import collect_contexts
from feature_lineage.models.checkpoint import load_model
from feature_lineage.models.hooks import load_hooked
from feature_lineage.store.formats import (
    read_batches,
    read_json,
    read_provenance,
    read_table,
    read_tensors,
    write_table,
)
from feature_lineage.text.shards import document_ends, encode_corpus
from feature_lineage.text.tokenizer import load_tokenizer
from feature_lineage.text.vocabulary import token_texts
from feature_lineage.text.windows import Windows

SEED = int(os.environ.get("DAMAGE_SEED", secrets.randbelow(1 << 32)))
HOOK = "blocks.0.mlp.hook_post"
FLIPS = 24
CORPORA = list(STUDY["corpora"])


def texts(path: Path) -> list[str]:
    return [text for batch in read_batches(path, ["text"]) for text in batch["text"].to_pylist()]


def windows(path: Path) -> np.ndarray:
    return Windows({"corpus": path.parent}, 8)[0]


def hooked(path: Path) -> object:
    return load_hooked(path.parent, HOOK)


def activations(path: Path) -> list:
    return list(ActivationFile(path).pieces())


def contexts_of(path: Path) -> pa.Table:
    return collect_contexts(path, read_tensors(path.parents[4] / "samples/validation.safetensors")["tokens"].shape)


def parts(path: Path) -> pa.Table:
    sides = [
        ActivationFile(path.parents[2] / f"features/{m}/seed0/validation/activations.parquet")
        for m in ("base", "coder")
    ]
    return merge_parts(*sides, [path], 0.5, 1)


def flow(path: Path) -> object:
    return read_fates(path.parent / "features.parquet", path.parent / "lineages.parquet")


def tokenized(path: Path) -> int:
    return encode_corpus(path, path.parents[2] / "tokenizer", path.parent / "tokens", {})


def sample(path: Path) -> object:
    return read_sample(path, path.parents[1] / "tokenizer/tokenizer.json", CORPORA)


# Each kind of file that the workflow reads again: one of them, and what reads it.
KINDS = {
    "corpora/prose/train.parquet": (texts, read_provenance),
    "corpora/prose/validation.parquet": (tokenized,),
    "tokenizer/tokenizer.json": (lambda path: load_tokenizer(path.parent), token_texts),
    "tokenizer/tokenizer_config.json": (lambda path: load_tokenizer(path.parent), read_provenance),
    "tokens/prose/train/shard-00000.npy": (windows,),
    "tokens/prose/train/index.json": (windows,),
    "tokens/prose/train/documents.parquet": (lambda path: document_ends(path.parent),),
    "models/base/model.safetensors": (lambda path: load_model(path.parent), read_tensors),
    "models/base/config.json": (lambda path: load_model(path.parent),),
    "models/base/generation_config.json": (lambda path: load_model(path.parent),),
    "models/base/tokenizer.json": (hooked, lambda path: load_tokenizer(path.parent)),
    "models/base/tokenizer_config.json": (hooked, lambda path: load_tokenizer(path.parent)),
    "models/base/training.parquet": (read_table,),
    "models/base/evaluation.json": (read_json,),
    "models/both/sweep.parquet": (read_table,),
    "models/both/tensors.parquet": (read_table, read_provenance),
    "saes/base/seed0/sae_weights.safetensors": (lambda path: load_autoencoder(path.parent),),
    "saes/base/seed0/cfg.json": (lambda path: load_autoencoder(path.parent), read_provenance),
    "saes/base/seed0/training.parquet": (read_table,),
    "saes/base/seed0/evaluation.json": (read_json,),
    "samples/validation.safetensors": (read_tensors, sample),
    "features/base/seed0/validation/activations.parquet": (activations, contexts_of),
    "features/base/seed0/validation/statistics.parquet": (lambda path: read_table(path, ["active"]),),
    "features/base/seed0/validation/quality.json": (read_json,),
    "features/base/seed0/validation/tokens.parquet": (read_table,),
    "features/base/seed0/validation/logit_effects.parquet": (read_table,),
    "features/base/seed0/validation/contexts.parquet": (read_table, lambda path: _contexts(path, 0)),
    "features/base/seed0/validation/categories.parquet": (read_table,),
    "correlations/validation/base.seed0--coder.seed0.parquet": (read_table,),
    "correlations/validation/base.seed0--coder.seed0.part0.parquet": (parts,),
    "flows/bootstrap/validation/base.seed0--coder.seed0.parquet": (read_table,),
    "readings/base--coder/seed0/validation/activations.parquet": (activations,),
    "readings/base--coder/seed0/validation/statistics.parquet": (read_table,),
    "readings/base--coder/seed0/validation/quality.json": (read_json,),
    "flows/verdicts/validation/base--coder.seed0/judged.parquet": (read_table,),
    "flows/verdicts/validation/base--coder.seed0/about.json": (read_json,),
    "flows/verdicts/validation/base--coder.seed0/replicates.parquet": (read_table,),
    "flows/verdicts.parquet": (read_table,),
    "flows/weights.parquet": (read_table,),
    "flows/drift.parquet": (read_table,),
    "flows/drift_curves.parquet": (read_table,),
    "flows/counts.parquet": (read_table,),
    "flows/edges.parquet": (read_table,),
    "flows/features.parquet": (read_table, flow),
    "flows/lineages.parquet": (read_table, flow),
    "flows/curves.parquet": (read_table,),
    "flows/strata.parquet": (read_table,),
    "flows/categories.parquet": (read_table,),
    "flows/summary.json": (read_json,),
    "flows/verdicts.json": (read_json,),
    "flows/sankey.json": (read_json,),
    "controls/ceiling.parquet": (read_table,),
    "controls/alignment_null.parquet": (read_table,),
    "controls/neurons.parquet": (read_table,),
    "controls/as_published.parquet": (read_table,),
    "controls/transfer.parquet": (read_table,),
    "controls/linear_merge.parquet": (read_table,),
    "controls/summary.json": (read_json,),
    "cases/article/case.json": (read_json,),
    "cases/article/tracking.parquet": (read_table,),
    "interpretations/base/seed0.parquet": (read_table,),
    "figures/scores.json": (read_json,),
}
# Shown by a browser, and read by nothing else than one.
SHOWN = re.compile(r"figures/[^/]+\.(html|csv|svg|png)|report/.*|logs/.*|benchmarks/.*|(.*/)?\.[^/]*")


@pytest.fixture(scope="module")
def place(study, tmp_path_factory):
    """A copy of the study's artefacts, with those of the steps that it leaves out."""
    root = tmp_path_factory.mktemp("damage") / "tiny"
    shutil.copytree(study.results, root, ignore=shutil.ignore_patterns("report", "logs", "benchmarks", "*.html"))
    tables = {
        "ceiling": ceiling_module.CEILING, "alignment_null": alignment_null_module.NULL, "neurons": neurons_module.NEURONS,
        "as_published": as_published_module.AS_PUBLISHED, "transfer": baselines.TRANSFER, "linear_merge": baselines.LINEAR_MERGE,
    }  # fmt: skip
    for name, schema in tables.items():
        rows = pa.table({field.name: pa.nulls(3, field.type) for field in schema}, schema=schema)
        write_table(root / f"controls/{name}.parquet", rows, schema, {"parameters": {}})
    shutil.copy(root / "flows/summary.json", root / "controls/summary.json")
    sums = pa.table({"feature_a": [0, 1], "feature_b": [1, 0], "sum": [0.5, 0.25]}, schema=PARTIAL_SUMS)
    write_table(root / "correlations/validation/base.seed0--coder.seed0.part0.parquet", sums, PARTIAL_SUMS, {})
    return root


def damages(whole: bytes, dice: random.Random) -> dict[str, bytes]:
    """Emptied, truncated at random, and one bit flipped: as often in the first and the last tenth as in all between."""
    size = len(whole)
    found = {"empty": b""}
    for length in (size - 1, *(dice.randrange(1, size) for _ in range(6))):
        found[f"cut to {length} of {size} bytes"] = whole[:length]
    tenth = max(1, size // 10)
    for first, last in ((0, tenth), (tenth, size - tenth), (size - tenth, size)):
        for _ in range(FLIPS // 3):
            position, bit = dice.randrange(first, last), dice.randrange(8)
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            found[f"bit {bit} of byte {position} of {size} flipped"] = bytes(damaged)
    return found


def test_no_kind_of_artefact_is_left_out(study):
    def kind(name: str) -> str:
        name = re.sub(r"(^figures|^interpretations|^cases)/[^/.]+", r"\1/*", name)
        name = re.sub(r"/(prose|code|base|coder|writer|both)\b", "/*", name)
        name = re.sub(r"\*--\w+", "*--*", name)
        return re.sub(
            r"shard-\d+", "shard", re.sub(r"\*\.seed0--\w+", "*.seed0--*", name.replace("validation", "train"))
        )

    known = {kind(name) for name in KINDS}
    for file in study.results.rglob("*"):
        name = file.relative_to(study.results).as_posix()
        if file.is_file() and not SHOWN.fullmatch(name):
            assert kind(name) in known, f"{name}: damage to it is not tried"


@pytest.mark.parametrize("name", KINDS)
def test_damage_of_any_kind_is_named_by_every_reader(place, tmp_path, name):
    root = tmp_path / "tiny"
    shutil.copytree(place, root, copy_function=os.link)
    path, dice = root / name, random.Random(f"{SEED} {name}")
    whole = path.read_bytes()
    for read in KINDS[name]:
        read(path)
        for what, content in damages(whole, dice).items():
            path.unlink()  # the name alone: the link to the undamaged file
            path.write_bytes(content)
            with pytest.raises(InputError) as error:
                read(path)
                pytest.fail(f"DAMAGE_SEED={SEED} {name}, {what}: nobody noticed")
            about = f"DAMAGE_SEED={SEED} {what}: {error.value}"
            assert str(error.value).startswith(f"{path}: "), about
            assert re.search("truncated|damaged", str(error.value)), about
            assert re.search("delete .*", str(error.value)), about
        path.unlink()
        path.write_bytes(whole)
        read(path)


# --- through Snakemake -------------------------------------------------------------------------------------

TARGETS = {
    "models/both/config.json": "models/both/evaluation.json",
    "models/both/sweep.parquet": "figures/sweep-both.json",
    "features/coder/seed0/validation/activations.parquet": "features/coder/seed0/validation/contexts.parquet",
    "saes/writer/seed0/cfg.json": "saes/writer/seed0/evaluation.json",
    "correlations/validation/base.seed0--coder.seed0.parquet": "flows/bootstrap/validation/base.seed0--coder.seed0.parquet",
}


def test_what_the_errors_say_to_delete_is_made_anew_to_the_byte(copy):
    dice, targets = random.Random(SEED), [f"results/tiny/{target}" for target in TARGETS.values()]
    before = {file: (copy.results / file).read_bytes() for pair in TARGETS.items() for file in pair}
    for file, target in TARGETS.items():
        path, times = copy.results / file, (copy.results / file).stat()
        damaged = bytearray(before[file])
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # bits rot without a trace
        (copy.results / target).unlink()

    run = copy.snakemake("-c2", "--keep-going", *targets)
    assert run.refused(), f"DAMAGE_SEED={SEED}\n{run}"
    errors = re.findall(r"\d\d:\d\d:\d\d ERROR (.*)", run.output)
    assert len(errors) == len(TARGETS), run
    for file, target in TARGETS.items():
        (error,) = (error for error in errors if error.startswith(f"results/tiny/{file}: "))
        assert "damaged" in error, error
        assert not (copy.results / target).exists()
        other = re.search(r"delete it(?: and (\S+))?$", error)
        (copy.results / file).unlink()
        if other[1]:
            (copy.root / other[1]).unlink()

    run = copy.snakemake("-c2", *targets)
    assert run.code == 0, run
    for file, content in before.items():
        assert (copy.results / file).read_bytes() == content, file
