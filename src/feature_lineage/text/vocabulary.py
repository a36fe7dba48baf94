"""Tokens as text: what each token of a vocabulary stands for, and what a window of them reads."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from feature_lineage.store.formats import verify_files


class Texts(list[str]):
    """The text of each token of a vocabulary; a token that is a piece of a character reads U+FFFD.

    `pieces` are the bytes behind the texts, and `broken` says whose are not whole characters: with its neighbours' they may be.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(piece.decode("utf-8", "replace") for piece in pieces)
        self.pieces = list(pieces)
        self.broken = [text.encode() != piece for text, piece in zip(self, pieces, strict=True)]


class Shown(NamedTuple):
    """Neighbouring tokens of a window that read as one: from `first` to before `stop`."""

    first: int
    stop: int
    text: str


def token_texts(path: str | Path) -> tuple[Texts, np.ndarray]:
    """The text of each token of a `tokenizer.json`, and whether it is a special one, bool [vocabulary].

    Texts of a window joined are its text as the tokenizer decodes it. Spaces are part of a token's text; where the vocabulary has only
    whole words and pieces of words, a space stands before each word. The token for unknown text is not special: text was there.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = Path(path)
    verify_files(path.with_name("tokenizer_config.json"))
    tokenizer = Tokenizer.from_file(str(path))
    content = json.loads(path.read_text(encoding="utf-8"))
    settings = json.loads(path.with_name("tokenizer_config.json").read_text(encoding="utf-8"))
    named = {name: _content(value) for name, value in settings.items() if name.endswith("_token")}
    unknown = {_unknown(content["model"]), named.pop("unk_token", None)} - {named.get("eos_token")}
    added = tokenizer.get_added_tokens_decoder()
    special = {token.content for token in added.values() if token.special} | set(named.values())
    read = _reader(content)
    pieces, is_special = [], []
    for number in range(max(tokenizer.get_vocab().values()) + 1):
        token = tokenizer.id_to_token(number)
        is_special.append(token in special - unknown)
        if token is None:  # a gap between the numbers
            pieces.append(b"")
        else:
            pieces.append(token.encode() if is_special[-1] else read(token, number in added or token in unknown))
    return Texts(pieces), np.array(is_special)


def window_texts(tokens: Sequence[int], texts: Sequence[str]) -> list[Shown]:
    """A window as it reads: the text of each token, of those together that only together are whole characters.

    Args:
        tokens: token numbers of the window, int [length].
        texts: of the vocabulary, as `token_texts` gives them.
    """
    if not isinstance(texts, Texts):
        return [Shown(place, place + 1, texts[token]) for place, token in enumerate(tokens)]
    shown: list[Shown] = []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    first = 0
    for place, token in enumerate(tokens):
        if texts.broken[token] or first < place:
            decoder.decode(texts.pieces[token])
            following = texts.pieces[tokens[place + 1]] if place + 1 < len(tokens) else b""
            if decoder.getstate()[0] and b"\x80" <= following[:1] < b"\xc0":
                continue  # the character goes on
            held = b"".join(texts.pieces[one] for one in tokens[first : place + 1])
            shown.append(Shown(first, place + 1, held.decode("utf-8", "replace")))
            decoder.reset()
        else:
            shown.append(Shown(place, place + 1, texts[token]))
        first = place + 1
    return shown


def _content(value: Any) -> Any:
    """The text of a special token, which the files write as a text or as a block."""
    return value.get("content") if isinstance(value, dict) else value


def _unknown(model: Mapping[str, Any]) -> str | None:
    """The token that a model gives for text that its vocabulary lacks."""
    if model.get("unk_id") is not None and isinstance(model["vocab"], list):
        return model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")


_DROP_SPACES = {"Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit"}
_CLEANED = (".", "?", "!", ",")  # before which tokenizers' WordPiece decoder leaves out the space


def _reader(content: Mapping[str, Any]) -> Callable[[str, bool], bytes]:
    """What the tokens of a `tokenizer.json` stand for: a function of a token, and whether it is an added or the unknown one."""
    model = content["model"]
    normalizers, splitters, decoders = (
        list(_parts(content.get(name))) for name in ("normalizer", "pre_tokenizer", "decoder")
    )
    decoder = {part["type"]: part for part in decoders}
    if any(part["type"] == "ByteLevel" for part in (*normalizers, *splitters, *decoders)):
        return lambda token, whole: token.encode() if whole else _from_alphabet(token)
    # What stands for a space: "▁" nearly always.
    marks = [part["replacement"] for part in (*decoders, *splitters) if part["type"] == "Metaspace"]
    replaced = [part for part in (*normalizers, *decoders) if part["type"] == "Replace" and "String" in part["pattern"]]
    marks += [part["content"] for part in replaced if part["pattern"]["String"] == " "]
    marks += [part["pattern"]["String"] for part in replaced if part["content"] == " "]
    if any(marks):
        mark, fallback = next(filter(None, marks)), "ByteFallback" in decoder or model.get("byte_fallback")
        return lambda token, whole: _from_pieces(token, mark, fallback)
    suffix = decoder.get("BPEDecoder", {}).get("suffix") or model.get("end_of_word_suffix")
    if suffix:
        return lambda token, whole: (token.removesuffix(suffix) + " " * (token.endswith(suffix) or whole)).encode()
    word_piece = decoder.get("WordPiece", {})
    prefix = word_piece.get("prefix") or model.get("continuing_subword_prefix")
    spaces_dropped = any(
        part["type"] in _DROP_SPACES or (part["type"] == "Split" and part["behavior"] == "Removed")
        for part in splitters
    )
    if not prefix and not spaces_dropped:
        return lambda token, whole: token.encode()

    def word(token: str, whole: bool) -> bytes:
        if prefix and token.startswith(prefix) and not whole:
            return token.removeprefix(prefix).encode()
        return (" " * (not word_piece.get("cleanup") or token not in _CLEANED) + token).encode()

    return word


def _parts(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A part of a `tokenizer.json`, or the parts that it is a sequence of; nothing of none."""
    if part is None:
        return
    inner = next((part[key] for key in ("normalizers", "pretokenizers", "decoders") if key in part), None)
    if inner is None:
        yield part
    for one in inner or ():
        yield from _parts(one)


def _alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (Radford et al. 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_ALPHABET = _alphabet()


def _from_alphabet(token: str) -> bytes:
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()


def _from_pieces(token: str, mark: str, fallback: bool) -> bytes:
    if fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace(mark, " ").encode()
