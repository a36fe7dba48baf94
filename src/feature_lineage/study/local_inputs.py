"""What a study reads from outside: published checkpoints, tokenizers and corpora on disk, known by their contents.

A step that reads them reruns when their contents change, not when they move: the path is told to the step, its identity is a digest. On
the hub, the name and the revision are the identity.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from feature_lineage.places import is_path, on_disk, wrong_folder
from feature_lineage.study.dictionaries import BESIDE, FILES, folder_problem, formats_of
from feature_lineage.study.digests import Checksums
from feature_lineage.study.keys import AdaptedModel, PretrainedModel
from feature_lineage.study.published_folders import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    adapter_problem,
    checkpoint_problem,
    width_problem,
)
from feature_lineage.study.study import Study
from feature_lineage.study.texts import FilesCorpus, HuggingFaceCorpus, PretrainedTokenizer
from feature_lineage.study.types import StudyError
from feature_lineage.study.vocabularies import disagreement, read_vocabulary

# What `tokenizer.import_tokenizer` reads, beside the numbers of special tokens in config.json; it is too slow to import here.
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
Files = list[tuple[str, Path | bytes]]  # by name, the file, or of one that is read in part that part
_SHARED = (
    "roles",
    "license",
    "fraction",
    "validation",
    "strip_license_headers",
)  # keys of a corpus that do not say where it is


class LocalInputs:
    """What a study's models, tokenizer and corpora are read from, and the identity of each.

    Identities are taken once in a process: what is recorded of a finished job is what was there before it started.
    """

    def __init__(self, study: Study, checksums: Checksums) -> None:
        self._study, self._checksums = study, checksums

    def check(self) -> None:
        """Refuse paths that lead to no folder, revisions of a folder, folders that cannot be read as what they are given as, and models whose
        own tokenizer has other numbers or whose width is not their parents'.

        Raises:
            StudyError: names each key, what was found and what is allowed.
        """
        lines = []
        for key, name, revision in self._places():
            if problem := wrong_folder(name, revision):
                allowed = "the path of a folder, or a name on the hub, `name` or `owner/name`"
                if not is_path(name, revision="any"):
                    allowed += ", with a `revision` where a folder here has its owner's name"
                lines.append(f"  {key}: found {name!r}, {problem} (in {Path.cwd()}); allowed: {allowed}")
            elif revision is not None and Path(on_disk(name)).is_dir():
                lines.append(
                    f"  {key}: found {name!r} with the revision {revision!r}, and a folder has no revisions (in {Path.cwd()}); allowed: the "
                    "folder alone, in a sequence one with a folder of each revision's name, or a name on the hub"
                )
        lines += [*self._unusable(), *self._unreadable(), *self._other_widths()]
        lines += [*self._unknown_tokens(), *self._other_tokens(), *self._no_template()]
        if lines:
            count = f"{len(lines)} problem" + "s" * (len(lines) > 1)
            raise StudyError(f"config refused, {count} in study {self._study.study!r}:\n" + "\n".join(lines))

    def _places(self) -> Iterator[tuple[str, str, str | None]]:
        """(key, name, revision) of all that may be a folder."""
        for name in self._study.read_corpora():
            if isinstance(block := self._study.corpora[name], HuggingFaceCorpus):
                yield f"corpora.{name}.huggingface", block.huggingface, block.revision
        if isinstance(block := self._study.tokenizer, PretrainedTokenizer):
            yield "tokenizer.pretrained", block.pretrained, block.revision
        for name, block in self._study.models.items():
            if isinstance(block, PretrainedModel):
                yield f"models.{name}.pretrained", block.pretrained, block.revision
            elif isinstance(block, AdaptedModel):
                yield f"models.{name}.adapter", block.adapter, block.revision
        for name, imported in self._study.autoencoders.items():
            for block in imported:
                place = f"{block.pretrained}/{block.folder}" if block.folder else block.pretrained
                local = is_path(block.pretrained, block.revision)
                yield f"autoencoders.{name}.pretrained", place if local else block.pretrained, block.revision

    def _unusable(self) -> Iterator[str]:
        """Problems of checkpoints and adapters in folders, as their files tell."""
        for name, block in self._study.models.items():
            for key, kind, problem in (
                ("pretrained", PretrainedModel, checkpoint_problem),
                ("adapter", AdaptedModel, adapter_problem),
            ):
                place = getattr(block, key) if isinstance(block, kind) else ""
                if not place or not is_path(place, block.revision) or not Path(on_disk(place)).is_dir():
                    continue
                if found := problem(place):
                    said = found.replace("models.NAME", f"models.{name}")
                    yield f"  models.{name}.{key}: found {place!r}, which {said}"

    def _unreadable(self) -> Iterator[str]:
        """Problems of autoencoders in folders, as their files tell."""
        for name, imported in self._study.autoencoders.items():
            for block in imported:
                folder = Path(on_disk(block.pretrained), block.folder or "")
                here = is_path(block.pretrained, block.revision) and folder.is_dir()
                if here and (problem := folder_problem(folder, block.format)):
                    yield f"  autoencoders.{name}.pretrained: found {str(folder)!r}, which {problem}"

    def _other_widths(self) -> Iterator[str]:
        """Problems of imported models that are not as wide as an imported parent, so that no feature of one could be one of the other's."""
        for parent, child in self._study.edges():
            one, other = (self._study.models[name] for name in (parent, child))
            if not (isinstance(one, PretrainedModel) and isinstance(other, PretrainedModel)):
                continue
            if problem := width_problem(parent, one.pretrained, other.pretrained, self._study.autoencoder.hook):
                yield f"  models.{child}.pretrained: found {other.pretrained!r}, {problem}"

    def _no_template(self) -> Iterator[str]:
        """The problem of a tokenizer without a chat template in a study with conversations."""
        talks = [name for name in self._study.read_corpora() if self._study.corpora[name].messages is not None]
        tokenizer = self._study.tokenizer
        if (
            not talks
            or not isinstance(tokenizer, PretrainedTokenizer)
            or not is_path(tokenizer.pretrained, tokenizer.revision)
        ):
            return
        folder = Path(on_disk(tokenizer.pretrained))
        if (
            not _json(folder / "tokenizer_config.json").get("chat_template")
            and not (folder / "chat_template.jinja").is_file()
        ):
            yield (
                f"  tokenizer.pretrained: found {tokenizer.pretrained!r}, which has no chat template, and corpora.{talks[0]}.messages needs one; "
                "allowed: the tokenizer of an instruct version, or `text` in place of `messages`"
            )

    def _unknown_tokens(self) -> Iterator[str]:
        """Problems of the tokens around documents and windows that a tokenizer on disk has not."""
        tokenizer = self._study.tokenizer
        if not isinstance(tokenizer, PretrainedTokenizer) or not is_path(tokenizer.pretrained, tokenizer.revision):
            return  # known once it is here: `boundaries.choose_boundaries` looks
        found = read_vocabulary(Path(on_disk(tokenizer.pretrained), "tokenizer.json"))
        for key, text in tokenizer.boundaries.items():
            if found is not None and text not in ("auto", "none") and text not in found.words | found.added:
                example = f", such as {next(iter(found.added))!r}" if found.added else ""
                yield (
                    f"  tokenizer.{key}: found {text!r}, which is no token of {tokenizer.pretrained!r}; allowed: auto, none or a token that it "
                    f"has{example}"
                )

    def _other_tokens(self) -> Iterator[str]:
        """Problems of models whose own tokenizer, beside the checkpoint, is not the study's."""
        tokenizer = self._study.tokenizer
        if not isinstance(tokenizer, PretrainedTokenizer) or not is_path(tokenizer.pretrained, tokenizer.revision):
            return  # known once it is here: `checkpoint.import_model` compares
        file = Path(on_disk(tokenizer.pretrained), "tokenizer.json")
        study = read_vocabulary(file)
        for name, block in self._study.models.items():
            if study is None or not isinstance(block, PretrainedModel) or not is_path(block.pretrained, block.revision):
                continue
            beside = Path(on_disk(block.pretrained), "tokenizer.json")
            own = None if _same_file(beside, file) else read_vocabulary(beside)
            if own is not None and (problem := disagreement(study, own)):
                yield (
                    f"  models.{name}.pretrained: found {block.pretrained!r}, whose tokenizer has other numbers than that of tokenizer.pretrained, "
                    f"{tokenizer.pretrained!r}: {problem}; allowed: models that share the study's tokenizer"
                )

    def follow(self, models: str | Path) -> None:
        """Mend links of imports whose weights are gone: a link that leads nowhere has no time stamp, and no file to compare.

        Of a checkpoint that has moved, the link is led to where it is now; its identity is the same, so that no step reruns. Of another
        one, the link is removed, as it is imported again.

        Args:
            models: the folder of the study's models.

        Raises:
            StudyError: the weights of a checkpoint of the hub are gone from the cache; names them and the remedy.
        """
        for name, block in self._study.models.items():
            link = Path(models) / name / "model.safetensors"
            if not link.is_symlink() or link.exists():
                continue
            record = _json(link.with_name("import.json"))
            if not isinstance(block, PretrainedModel):
                link.unlink()
            elif is_path(block.pretrained, block.revision):
                self._lead(link, Path(on_disk(block.pretrained), link.name), record)
            elif record.get("pretrained") != block.pretrained:
                link.unlink()
            else:
                raise StudyError(
                    f"models.{name}.pretrained: the weights of {block.pretrained!r} are gone from {link.readlink()}; download that revision again "
                    f"to there (`hf download {block.pretrained}`), or delete {link}, so that the model is imported again and all that depends on "
                    "it is computed again"
                )

    def _lead(self, link: Path, there: Path, record: dict[str, Any]) -> None:
        """Lead a link to a file if it is what was imported; remove it otherwise."""
        files = record.get("files")
        digest = files.get(link.name, {}).get("sha256") if isinstance(files, dict) else None
        if not there.is_file() or self._checksums.of([there]) != [digest]:
            link.unlink()
            return
        before, aside = link.lstat(), link.with_name(f".{link.name}.{os.getpid()}")
        aside.symlink_to(os.path.realpath(there))
        os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)
        aside.replace(link)

    @cache  # noqa: B019 - there is one for each study, and it lives as long as the process
    def model(self, name: str) -> str:
        """Identity of a published checkpoint, or of an adapter."""
        block = self._study.models[name]
        if isinstance(block, AdaptedModel):
            return self._identity(block.adapter, block.revision, adapter_files)
        return self._identity(block.pretrained, block.revision, checkpoint_files)

    @cache  # noqa: B019
    def tokenizer(self) -> str:
        """Identity of a published tokenizer."""
        block = self._study.tokenizer
        return self._identity(block.pretrained, block.revision, tokenizer_files)

    @cache  # noqa: B019
    def autoencoder(self, model: str, seed: int) -> str:
        """Identity of an autoencoder that was made elsewhere."""
        block = self._study.imported_autoencoder(model, seed)
        assert block is not None
        if not is_path(block.pretrained, block.revision):
            return "/".join(filter(None, (block.pretrained, block.folder)))
        folder = Path(on_disk(block.pretrained), block.folder or "")
        names = (*FILES.get(formats_of(folder, block.format)[0], ()), *BESIDE)
        return self._digest([(name, folder / name) for name in names])

    def _identity(self, name: str, revision: str | None, files: Callable[[Path], Files]) -> str:
        return self._digest(files(Path(on_disk(name)))) if is_path(name, revision) else name

    def source(self, corpus: str) -> tuple[str, dict[str, Any]]:
        """(kind, arguments) of the function of `sources` that reads a corpus's documents."""
        block = self._study.corpora[corpus].model_dump(exclude=set(_SHARED))
        kind = next(kind for kind in ("package", "files", "huggingface") if kind in block)
        if kind == "huggingface" and is_path(block[kind], block["revision"]):
            block[kind] = on_disk(block[kind])
        return kind, block

    @cache  # noqa: B019
    def corpus(self, name: str) -> tuple[str, dict[str, Any], str | None]:
        """Identity of a corpus: its source, and a digest of what is read from disk in place of the path of a data set."""
        kind, options = self.source(name)
        block = self._study.corpora[name]
        if isinstance(block, FilesCorpus):
            return kind, options, self._digest([(path, Path(path)) for path in named_files(block.files)])
        if isinstance(block, HuggingFaceCorpus) and is_path(block.huggingface, block.revision):
            files = data_set_files(Path(options.pop(kind)), block.subset, block.split)
            return kind, options, self._digest(files)
        return kind, options, None

    def _digest(self, files: Files) -> str:
        """SHA-256 over names and contents."""
        named = [(name, content) for name, content in files if isinstance(content, bytes) or content.is_file()]
        try:
            read = iter(self._checksums.of(content for _, content in named if isinstance(content, Path)))
        except OSError as error:
            raise StudyError(f"{error.filename}: cannot be read ({error.strerror}); mend it or name another") from None
        digest = hashlib.sha256()
        for name, content in named:
            one = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else next(read)
            digest.update(f"{one} {name}\n".encode(errors="surrogateescape"))
        return f"sha256:{digest.hexdigest()}"


def _same_file(a: Path, b: Path) -> bool:
    """Whether two files hold the same bytes."""
    try:
        return a.stat().st_size == b.stat().st_size and a.read_bytes() == b.read_bytes()
    except OSError:
        return False


# --- which files are read ----------------------------------------------------------------------------------


def named_files(patterns: str | list[str]) -> list[str]:
    """The files that paths and glob patterns name, sorted; a path without stars is there even if no file is."""
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        magic = glob.has_magic(pattern) and not os.path.exists(pattern)  # noqa: PTH110 - text, as the patterns are
        found.update(glob.glob(pattern, recursive=True) if magic else [pattern])
    return sorted(path for path in found if not Path(path).is_dir())


def tokenizer_files(folder: Path) -> Files:
    """What is read of a published tokenizer."""
    settings = _json(folder / "config.json")  # the model's, mostly: another model may have the same tokens
    special = {key: value for key, value in settings.items() if key.endswith("_token_id")}
    found: Files = [(name, folder / name) for name in TOKENIZER]
    return [*found, ("config.json", json.dumps(special, sort_keys=True).encode())]


def checkpoint_files(folder: Path) -> Files:
    """What `checkpoint.published_model` reads: configs and safetensors."""
    weights = _json(folder / "config.json").get("transformers_weights")
    if not isinstance(weights, str):
        whole = (folder / "model.safetensors").is_file()
        weights = "model.safetensors" if whole else "model.safetensors.index.json"
    names = ["config.json", "generation_config.json", weights]
    if weights.endswith(".index.json"):
        shards = _json(folder / weights).get("weight_map")
        named = shards.values() if isinstance(shards, dict) else ()
        names += sorted({name for name in named if isinstance(name, str)})
    return [(name, folder / name) for name in names]


def adapter_files(folder: Path) -> Files:
    """What `adapter.read_adapter` reads."""
    return [(name, folder / name) for name in (ADAPTER, ADAPTER_WEIGHTS)]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the step that loads it says so
        return {}
    return content if isinstance(content, dict) else {}


_HEADER = re.compile(rb"\A\s*---\r?\n.*?^---", re.DOTALL | re.MULTILINE)


def data_set_files(folder: Path, subset: str | None, split: str) -> Files:
    """What is read of a data set: the files of the split, and what says how they are read.

    All files of the folder where `datasets` cannot tell.
    """
    import datasets

    folder = folder.resolve()
    try:
        # An absolute path: some names stand for formats, not for folders.
        builder = datasets.load_dataset_builder(str(folder), subset)
        files = [str(file) for file in (builder.config.data_files or {})[split]]
    except Exception:  # of many kinds; the step that reads it says what is wrong
        files = [str(file) for file in folder.rglob("*") if not file.relative_to(folder).name.startswith(".")]
    found: Files = []
    for file in sorted(files):
        inside = Path(file).is_relative_to(folder)
        found.append((Path(file).relative_to(folder).as_posix() if inside else file, Path(file)))
    for name in ("dataset_infos.json", ".huggingface.yaml"):
        found.append((name, folder / name))
    card = folder / "README.md"
    header = _HEADER.search(card.read_bytes()) if card.is_file() else None
    return [*found, ("README.md", header.group() if header else b"")]
