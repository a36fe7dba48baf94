"""Tokenizers: trained on the study's corpora, or published; saved with provenance, loaded to the very tokens of their `tokenizer.json`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from feature_lineage.errors import InputError
from feature_lineage.places import wrong_folder
from feature_lineage.progress import progress
from feature_lineage.store.checksums import digests
from feature_lineage.store.formats import read_batches, verify_files, write_json
from feature_lineage.store.writing import staged
from feature_lineage.text.boundaries import KEY, Boundaries, parse_boundaries

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"


def train_tokenizer(corpora: Sequence[str | Path], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the texts of Parquet files, read as a stream; one special token, `<|endoftext|>`.

    Raises:
        InputError: the text is too little for `vocab_size`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def texts() -> Iterator[list[str]]:
        with progress(None, "doc") as bar:
            for path in corpora:
                for batch in read_batches(path, ["text"], rows=256):
                    bar.update(len(batch))
                    yield batch.column("text").to_pylist()

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        texts(),
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    if (found := bpe.get_vocab_size()) != vocab_size:
        raise InputError(
            f"tokenizer: the text of {', '.join(map(str, corpora))} gives {found} tokens, tokenizer.vocab_size asks {vocab_size}; "
            "lower the key or train on more text"
        )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a directory; every file of one that `save_tokenizer` or `checkpoint.save_model` wrote is verified.

    Raises:
        InputError: a file of it is missing or damaged, or as for `import_tokenizer`.
    """
    verify_files(Path(path) / "tokenizer_config.json")
    return import_tokenizer(path)


def import_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Load the fast tokenizer of a directory or of the hub: it gives the ids of its `tokenizer.json`, whatever class it claims to be.

    transformers builds tokenizers of most classes from their vocabulary alone, with the class's own normaliser and pre-tokenizer in place
    of the file's. Only the names of the special tokens are taken from the files beside it. Truncation, padding and BPE dropout are off.

    Raises:
        InputError: it cannot be loaded, has no `tokenizer.json`, or is custom code.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    files = _tokenizer_files(path, revision)
    try:
        exact = Tokenizer.from_file(str(files["tokenizer.json"]))
    except Exception as error:  # a bare one
        raise InputError(
            f"tokenizer {path}: cannot be loaded (tokenizer.json: {' '.join(str(error).split())}); replace the file"
        ) from error
    exact.no_truncation()
    exact.no_padding()
    if getattr(exact.model, "dropout", None):
        exact.model.dropout = None
    contents = {name: _json_object(path, file) for name, file in files.items() if file and name != "tokenizer.json"}
    settings = contents.get("tokenizer_config.json", {})
    names = _special_tokens(path, exact, contents)
    template = files["chat_template.jinja"]
    if template is not None:
        settings["chat_template"] = template.read_text(encoding="utf-8")
    kept = {key: settings[key] for key in _KEPT if settings.get(key) is not None}
    try:
        float(kept.get("model_max_length", 0))  # which transformers compares only when a text is encoded
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=exact, **kept, **names)
    except Exception as error:  # values of the wrong type, of which transformers makes many kinds
        raise InputError(
            f"tokenizer {path}: cannot be loaded (tokenizer_config.json: {' '.join(str(error).split())}); correct the file"
        ) from error
    tokenizer._tokenizer = exact  # the constructor has changed its copy: a post-processor, tokens that it took for new
    tokenizer.name_or_path = str(path)  # not before: the constructor would ask the hub about it
    # TransformerLens asks transformers to build a tokenizer without this again, by its class.
    tokenizer.init_kwargs |= {"name_or_path": str(path), "add_bos_token": True}
    setattr(tokenizer, KEY, parse_boundaries(settings.get(KEY), path))  # see `boundaries_of`
    return tokenizer


_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_KEPT = ("model_max_length", "padding_side", "clean_up_tokenization_spaces", "chat_template")
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "config.json", "chat_template.jinja")


def _tokenizer_files(path: str | Path, revision: str | None) -> dict[str, Path | None]:
    """A tokenizer's files by name, from its directory or downloaded; None for one that there is not."""
    from transformers.utils import cached_file

    folder, names = Path(path), ("tokenizer.json", *_BESIDE)
    if folder.is_dir():
        files = {name: folder / name if (folder / name).is_file() else None for name in names}
    elif problem := wrong_folder(path, revision):
        raise InputError(f"tokenizer {path}: cannot be loaded ({problem}); check the path")
    else:
        try:
            found = {
                name: cached_file(
                    str(path), name, revision=revision, _raise_exceptions_for_missing_entries=name == "tokenizer.json"
                )
                for name in names
            }
        except Exception as error:  # the hub's client raises many kinds
            raise InputError(
                f"tokenizer {path}: cannot be loaded ({' '.join(str(error).split())}); check the name, the revision and the network"
            ) from error
        files = {name: Path(file) if file else None for name, file in found.items()}
    if files["tokenizer.json"] is None:
        raise InputError(
            f"tokenizer {path}: is not a fast tokenizer (no tokenizer.json); convert it with transformers, check its tokens, and name the "
            "folder of the result"
        )
    return files


def _json_object(path: str | Path, file: Path) -> dict[str, Any]:
    if file.suffix != ".json":
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where a block of keys is meant")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"tokenizer {path}: cannot be loaded ({file.name}: {error}); replace the file") from None
    return content


def _special_tokens(path: str | Path, exact: Tokenizer, contents: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Special tokens by name: as tokenizer_config.json has them, special_tokens_map.json, the class, or config.json (the ends alone)."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    settings = contents.get("tokenizer_config.json", {})
    kind = settings.get("tokenizer_class")
    known = tokenizer_class_from_name(kind) if isinstance(kind, str) else None
    if settings.get("auto_map") and known is None:
        raise InputError(
            f"tokenizer {path}: cannot be loaded (its class {kind!r} is custom code, which is not run); if its tokenizer.json says all, "
            "remove auto_map from its tokenizer_config.json"
        )
    defaults = inspect.signature(known.__init__).parameters if known else {}
    names: dict[str, str] = {}
    for name in _NAMED:
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            value = contents.get(file, {}).get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if value is None:
                continue
            if not isinstance(value, str):
                raise InputError(f"tokenizer {path}: {file} has {name} = {value!r}; correct it to the token's text")
            if exact.token_to_id(value) is not None:
                names.setdefault(name, value)
            elif name == "eos_token":
                raise InputError(
                    f"tokenizer {path}: {file} has eos_token = {value!r}, which tokenizer.json has not; correct it to a token that it has"
                )
        default = defaults[name].default if name in defaults else None
        default = default.content if isinstance(default, AddedToken) else default
        if name not in names and isinstance(default, str) and exact.token_to_id(default) is not None:
            names[name] = default
        number = contents.get("config.json", {}).get(f"{name}_id")
        number = number[0] if isinstance(number, list) and number else number
        if name not in names and name in ("bos_token", "eos_token") and type(number) is int and number >= 0:
            token = exact.id_to_token(number)
            names |= {} if token is None else {name: token}
    return names


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many rows an embedding needs: one more than the highest id, as a vocabulary may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def save_tokenizer(
    tokenizer: PreTrainedTokenizerFast, path: str | Path, record: dict[str, Any], boundaries: Boundaries | None = None
) -> None:
    """Write a tokenizer directory; its provenance goes into `tokenizer_config.json`, with digests of the other files.

    Args:
        tokenizer: which.
        path: of the directory.
        record: provenance.
        boundaries: what is to stand around documents and windows; kept in `tokenizer_config.json`.
    """
    with staged(path) as folder:
        tokenizer.save_pretrained(folder)
        config = folder / "tokenizer_config.json"
        content = json.loads(config.read_text(encoding="utf-8"))
        config.unlink()
        if boundaries is not None:
            content[KEY] = boundaries._asdict()
        write_json(config, content, record | {"files": digests(folder)})
