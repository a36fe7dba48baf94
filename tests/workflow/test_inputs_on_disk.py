"""Checkpoints, tokenizers and data sets on disk are inputs: what changes in them reruns, a move does not, and what is missing is named."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from filelock import FileLock
from tiny_study import Workplace, shared

TARGETS = ("results/tiny/models/base/config.json", "results/tiny/tokens/stories/train/index.json")
LINES = [{"text": f"Story {number}: once upon a time there was {number * 7}."} for number in range(60)]
CORPUS = {"build_corpus stories", "encode_corpus stories"}
TOKENIZER = {"import_tokenizer", "import_model base", "encode_corpus stories"}
MODEL = {"import_model base"}


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def imported(tmp_path_factory, bare, tokenizer_dir, architecture) -> Workplace:
    """A study of what lies in `published/`: a checkpoint in shards, a tokenizer, a data set of two splits. Imported and encoded."""
    from feature_lineage.models.checkpoint import build_model

    root = shared(tmp_path_factory, "imported")
    config = bare.config | {
        "corpora": {"stories": {"huggingface": "published/stories", "validation": 0.2}},
        "tokenizer": {"pretrained": "published/tokenizer"},
        "models": {"base": {"pretrained": "published/base", "train": ["stories"]}},
        "flow": bare.config["flow"] | {"corpora": ["stories"]},
    }
    place = Workplace(root, config)
    with FileLock(f"{root}.lock"):
        if not root.exists():
            bare.copy(root)
            published = root / "published"
            shutil.copytree(tokenizer_dir, published / "tokenizer")
            build_model(architecture, tokenizer_dir, 0).save_pretrained(published / "base", max_shard_size="40KB")
            write_lines(published / "stories" / "train.jsonl", LINES)
            write_lines(published / "stories" / "validation.jsonl", LINES[:5])
            run = place.snakemake("-c2", *TARGETS)
            assert run.code == 0, run
    return place


@pytest.fixture
def place(imported, tmp_path) -> Workplace:
    return imported.copy(tmp_path / "place")


def overwrite(path, content=None):
    """Replace a file by another one, with the time stamp of a file that was there long before."""
    aside = path.with_name("aside")
    aside.write_bytes(content if content is not None else path.read_bytes())
    os.utime(aside, (1e9, 1e9))
    aside.replace(path)


def edit(path, old, new):
    content = path.read_bytes()
    assert old in content
    overwrite(path, content.replace(old, new, 1))


def model_shard(root):
    from safetensors.torch import load_file, save_file

    shard = sorted((root / "base").glob("model-*.safetensors"))[1]
    tensors = load_file(shard)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, shard, metadata={"format": "pt"})


def tokenizer(root):
    edit(root / "tokenizer/tokenizer.json", b'"add_prefix_space": false', b'"add_prefix_space": true')


def replaced_rows(root):
    overwrite(root / "stories/train.jsonl", (root / "stories/train.jsonl").read_bytes().replace(b"once", b"twice"))


def another_link(root):
    (root / "stories").rename(root / "v1")
    write_lines(root / "v2" / "train.jsonl", LINES[1:])
    (root / "stories").symlink_to("v2")


CHANGES = {model_shard: MODEL, tokenizer: TOKENIZER, replaced_rows: CORPUS, another_link: CORPUS}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_on_disk_reruns_with_everything_downstream(place, change):
    """Once nothing reran. All other files that are read: `tests/test_local_inputs.py`."""
    change(place.root / "published")
    assert set(place.plan(*TARGETS)) == CHANGES[change]


def test_what_moves_or_is_touched_or_is_not_read_reruns_nothing(place):
    root = place.root / "published"
    for path in root.rglob("*"):
        os.utime(path)
    (root / "base" / "README.md").write_text("A model.")
    (root / "base" / "optimizer.pt").write_text("Not read.")
    (root / "base" / "tokenizer.json").write_text("{}")
    (root / "tokenizer" / "vocab.json").write_text("{}")
    (root / "stories" / "README.md").write_text("A data set.")
    write_lines(root / "stories" / "validation.jsonl", LINES[:6])
    assert place.plan(*TARGETS) == {}
    elsewhere = place.root.parent / "elsewhere"
    root.rename(elsewhere)
    place.config["models"]["base"]["pretrained"] = f"{elsewhere}/base/"
    place.config["tokenizer"]["pretrained"] = "../elsewhere/tokenizer"
    (place.root / "data" / "linked").symlink_to(elsewhere / "stories")
    place.config["corpora"]["stories"]["huggingface"] = "data/linked"
    assert place.plan(*TARGETS) == {}


def test_what_is_missing_is_refused_with_key_and_remedy_before_any_job(place):
    """In whatever way a path is written, and also where all results are there."""
    shutil.rmtree(place.root / "published" / "base")
    (place.root / "published" / "link").symlink_to("nothing")
    place.config["corpora"]["stories"]["huggingface"] = "./published/link"
    place.config["tokenizer"]["pretrained"] = "~/no/tokenizer"
    run = place.snakemake("-n")
    assert run.refused(), run
    for key, found in {
        "models.base.pretrained": "'published/base', no such folder",
        "corpora.stories.huggingface": "'./published/link', it is a link that leads to no folder",
        "tokenizer.pretrained": "'~/no/tokenizer', no such folder",
    }.items():
        (line,) = [line for line in run.output.splitlines() if line.startswith(f"  {key}: found {found}")]
        assert str(place.root) in line and "; allowed: " in line
    assert "hub" not in run.output.replace("a name on the hub", "")


def test_what_changes_while_it_is_read_is_read_once_more(place):
    """Snakemake records parameters when a job has ended: they must be those from before it started."""
    saved = "save_tokenizer(tokenizer, Path(smk.output[0]).parent, provenance(smk.input, smk.params), boundaries)"
    later = "Path(smk.params.source, 'chat_template.jinja').write_text('{{ messages }}')"
    place.edit("workflow/scripts/import_tokenizer.py", saved, f"{saved}\n        {later}")
    shutil.rmtree(place.results / "tokenizer")
    target = "results/tiny/tokenizer/tokenizer.json"
    run = place.snakemake("-c2", target)
    assert run.code == 0, run
    plan = place.plan(target)
    assert set(plan) == {"import_tokenizer"}
    assert "Params have changed" in plan["import_tokenizer"]


@pytest.mark.parametrize("name", ["someone/model", "gpt2"])
def test_a_name_on_the_hub_reruns_its_import_when_it_changes(place, name):
    place.config["models"]["base"]["pretrained"] = name
    assert set(place.plan(*TARGETS)) == MODEL


def test_documents_replaced_by_older_ones_are_read(bare, tmp_path):
    """`files:` too. Time stamps hide a file that was there before the run and takes the place of another."""
    place = bare.copy(tmp_path / "place")
    target = "results/tiny/corpora/{}/train.parquet"
    targets = [target.format(corpus) for corpus in ("prose", "code")]
    run = place.snakemake("-c2", *targets)
    assert run.code == 0, run
    overwrite(place.root / "data" / "prose.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in LINES))
    assert set(place.plan(*targets)) == {"build_corpus prose"}
    (place.root / "data" / "code" / "json-tool.py").unlink()
    assert set(place.plan(*targets)) == {"build_corpus prose", "build_corpus code"}
    (place.root / "data" / "prose.jsonl").unlink()
    run = place.snakemake("-n", *targets)
    assert run.refused() and "data/prose.jsonl" in run.output, run


# --- an import is a link -----------------------------------------------------------------------------------

CHECKED = "results/tiny/models/base/hook.json"  # which reads the weights


@pytest.fixture(scope="module")
def linked(tmp_path_factory, imported, tokenizer_dir, architecture) -> Workplace:
    """The same with a checkpoint in one file, older than all results; imported, and read at its hook point."""
    from feature_lineage.models.checkpoint import build_model

    root = shared(tmp_path_factory, "linked")
    place = Workplace(root, imported.config)
    with FileLock(f"{root}.lock"):
        if not root.exists():
            imported.copy(root)
            shutil.rmtree(root / "published" / "base")
            build_model(architecture, tokenizer_dir, 0).save_pretrained(root / "published" / "base")
            os.utime(root / "published" / "base" / "model.safetensors", (1e9, 1e9))
            run = place.snakemake("-c2", CHECKED)
            assert run.code == 0, run
    return place


@pytest.fixture
def link(linked, tmp_path) -> Workplace:
    """A copy with weights of its own."""
    place = linked.copy(tmp_path / "place")
    weights = place.results / "models" / "base" / "model.safetensors"
    assert weights.is_symlink() and weights.readlink() == linked.root / "published/base/model.safetensors"
    status = weights.lstat()
    weights.unlink()
    weights.symlink_to(place.root / "published" / "base" / "model.safetensors")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
    return place


def source(place):
    return place.root / "published" / "base" / "model.safetensors"


def test_a_link_is_up_to_date_and_its_source_may_be_touched_or_moved(link):
    assert link.plan(CHECKED) == {}
    os.utime(source(link))
    assert link.plan(CHECKED) == {}
    source(link).parent.rename(link.root / "elsewhere")
    link.config["models"]["base"]["pretrained"] = "elsewhere"
    assert link.plan(CHECKED) == {}
    weights = link.results / "models" / "base" / "model.safetensors"
    assert weights.readlink() == link.root / "elsewhere" / "model.safetensors"


def test_an_import_that_is_forced_or_removed_leaves_the_source(link):
    before = source(link).stat()
    run = link.snakemake("-c2", CHECKED, "--forcerun", "import_model")
    assert run.code == 0, run
    run = link.snakemake("-c2", CHECKED, "--delete-all-output")
    assert run.code == 0 and not (link.results / "models" / "base" / "model.safetensors").is_symlink(), run
    shutil.rmtree(link.results / "models")
    after = source(link).stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)


def test_a_source_that_is_replaced_is_imported_again(link):
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor + 1 for name, tensor in load_file(source(link)).items()}
    save_file(tensors, source(link), {"format": "pt"})
    os.utime(source(link), (1e9, 1e9))
    assert set(link.plan(CHECKED)) == {"import_model base", "check_hook base"}
    run = link.snakemake("-c2", CHECKED)
    assert run.code == 0, run
    assert link.plan(CHECKED) == {}


def test_a_source_that_is_gone_is_named_with_the_remedy(link):
    """Once, with the weights alone gone, Snakemake could not tell a time stamp."""
    source(link).unlink()
    run = link.snakemake("-n", CHECKED)
    assert run.refused(), run
    assert (
        "models.base.pretrained: found 'published/base', which has no weights in safetensors; put them back"
        in run.output
    )
    shutil.rmtree(source(link).parent)
    run = link.snakemake("-n", CHECKED)
    assert run.refused() and "models.base.pretrained: found 'published/base', no such folder" in run.output, run


def test_a_source_that_goes_while_the_study_runs_is_named(link):
    """Once the message was that of a missing file of the results."""
    job = "    with job(smk.log[0]):\n"
    link.edit("workflow/scripts/check_hook.py", job, f"{job}        Path({str(source(link))!r}).unlink()\n")
    run = link.snakemake("-c2", CHECKED)
    assert run.refused() and f"{source(link)}: these weights of " in run.output, run


# --- adapters ----------------------------------------------------------------------------------------------


def test_an_adapter_is_merged_and_reruns_when_it_is_replaced(link):
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    folder = link.root / "published" / "adapter"
    model = AutoModelForCausalLM.from_pretrained(source(link).parent)
    get_peft_model(model, LoraConfig(r=2, target_modules=["v_proj"])).save_pretrained(folder)
    link.config["models"]["tuned"] = {"parent": "base", "adapter": "published/adapter"}
    target = "results/tiny/models/tuned/hook.json"
    run = link.snakemake("-c2", target)
    assert run.code == 0, run
    assert link.plan(target) == {}
    file = folder / "adapter_model.safetensors"
    save_file({name: torch.ones_like(tensor) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    os.utime(file, (1e9, 1e9))
    assert set(link.plan(target)) == {"import_adapter tuned", "check_hook tuned"}
    (folder / "adapter_config.json").unlink()
    run = link.snakemake("-n", target)
    assert run.refused(), run
    assert (
        "models.tuned.adapter: found 'published/adapter', which has no adapter_config.json; name the folder"
        in run.output
    )
