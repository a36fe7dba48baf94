"""What stands around documents and windows: the tokens that a model was trained to find there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from feature_lineage.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

KEY = "feature_lineage"  # of `tokenizer_config.json`, under which the choices are kept
# BOS tokens whose models were trained with one at the head of every sequence, and read text badly without, by the token's text. Of other
# tokenizers `auto` puts none there, as most models met one at the head of a document alone (`<s>` of a Llama 2: loss 1.889 to 2.400).
WINDOW_STARTS = {
    # Gemma: perplexity on LAMBADA 3.46 with it, 5.9e9 without (EleutherAI/lm-evaluation-harness, pull request 1465; Gemma 2: 2049).
    "<bos>": "Gemma",
    # Llama 3: Meta's own code (meta-llama/llama3, `Llama.text_completion`) encodes every text with `bos=True`.
    "<|begin_of_text|>": "Llama 3",
}


class Boundaries(NamedTuple):
    """Token ids that are put before and after each document, and before each window when a model reads it (None: nothing)."""

    document_start: tuple[int, ...]
    document_end: tuple[int, ...]
    window_start: int | None

    def words(self, tokenizer: Tokenizer) -> dict[str, str]:
        """The choices as the texts of their tokens, `none` where there is none."""
        ids = (*self[:2], () if self.window_start is None else (self.window_start,))
        texts = (" ".join(map(tokenizer.id_to_token, one)) or "none" for one in ids)
        return dict(zip(self._fields, texts, strict=True))


def choose_boundaries(tokenizer: PreTrainedTokenizerFast, asked: Mapping[str, str]) -> Boundaries:
    """The choices that the configuration makes for a tokenizer.

    Args:
        tokenizer: as `import_tokenizer` or `train_tokenizer` gives it.
        asked: `auto`, `none` or a token's text for each of `document_start`, `document_end` and `window_start`; `auto` where missing.
            For `auto` see `_auto`.

    Raises:
        InputError: the tokenizer has no such token, or nothing would part documents.
    """
    automatic = _auto(tokenizer)
    chosen: list[Any] = []
    for key, auto in zip(Boundaries._fields, automatic, strict=True):
        if (text := asked.get(key, "auto")) == "auto":
            chosen.append(auto)
            continue
        number = None if text == "none" else _token(tokenizer, key, text)
        chosen.append(number if key == "window_start" else () if number is None else (number,))
    return _parting(Boundaries(*chosen), tokenizer)


def _auto(tokenizer: PreTrainedTokenizerFast) -> Boundaries:
    """What a tokenizer itself says: what a study has recorded in it, else what it puts around a text, else its eos after a document.

    A window start is its BOS where the model needs one (`WINDOW_STARTS`).
    """
    recorded = getattr(tokenizer, KEY, None)
    if recorded is not None:
        return recorded
    exact = tokenizer.backend_tokenizer
    text = next((one for one in ("a", "the", "0", ".") if exact.encode(one, add_special_tokens=False).ids), "")
    plain, whole = (exact.encode(text, add_special_tokens=special).ids for special in (False, True))
    first = next((place for place in range(len(whole)) if whole[place : place + len(plain)] == plain), 0)
    before, after = tuple(whole[:first]), tuple(whole[first + len(plain) :])
    if not before and not after and tokenizer.eos_token_id is not None:
        after = (tokenizer.eos_token_id,)  # as GPT-2 and Pythia were trained
    return Boundaries(before, after, tokenizer.bos_token_id if tokenizer.bos_token in WINDOW_STARTS else None)


def _token(tokenizer: PreTrainedTokenizerFast, key: str, text: str) -> int:
    number = tokenizer.backend_tokenizer.token_to_id(text)
    if number is None:
        raise InputError(
            f"tokenizer.{key} is {text!r}, which is no token of {tokenizer.name_or_path or 'the tokenizer'}; set it to auto, none or a token "
            f"that it has{_examples(tokenizer)}"
        )
    return number


def _examples(tokenizer: PreTrainedTokenizerFast) -> str:
    special = [token.content for token in tokenizer.backend_tokenizer.get_added_tokens_decoder().values()]
    return f", such as {special[0]!r}" if special else ""


def _parting(found: Boundaries, tokenizer: PreTrainedTokenizerFast) -> Boundaries:
    if not found.document_start and not found.document_end:
        raise InputError(
            f"tokenizer {tokenizer.name_or_path}: has no token to part documents with; set tokenizer.document_start or tokenizer.document_end "
            f"to one of its tokens{_examples(tokenizer)}, or add its eos_token to tokenizer_config.json"
        )
    return found


def boundaries_of(tokenizer: PreTrainedTokenizerFast) -> Boundaries:
    """The choices recorded in a tokenizer's folder; where there are none, its eos after each document.

    Raises:
        InputError: none are recorded, and it has no eos.
    """
    recorded = getattr(tokenizer, KEY, None)
    if recorded is not None:
        return recorded
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return _parting(Boundaries((), end, None), tokenizer)


def recorded_boundaries(folder: str | Path) -> Boundaries | None:
    """The choices recorded in the `tokenizer_config.json` of a tokenizer or a checkpoint; None where there are none."""
    try:
        settings = json.loads(Path(folder, "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # `load_tokenizer` says so
        return None
    return parse_boundaries(settings.get(KEY), folder) if isinstance(settings, dict) else None


def recorded_words(folder: str | Path) -> dict[str, str] | None:
    """The same as texts (`Boundaries.words`)."""
    from tokenizers import Tokenizer

    found = recorded_boundaries(folder)
    return None if found is None else found.words(Tokenizer.from_file(str(Path(folder, "tokenizer.json"))))


def parse_boundaries(value: Any, folder: str | Path) -> Boundaries | None:
    """The choices as `save_tokenizer` wrote them; None where there are none.

    Raises:
        InputError: something else is there.
    """
    if value is None:
        return None
    try:
        start, end, window = (value[key] for key in Boundaries._fields)
        found = Boundaries(tuple(start), tuple(end), window)
    except (KeyError, TypeError):
        found = None
    ids = [] if found is None else [*found[0], *found[1], *([] if found[2] is None else [found[2]])]
    if found is None or any(type(number) is not int or number < 0 for number in ids):
        raise InputError(
            f"tokenizer {folder}: tokenizer_config.json has {KEY} = {json.dumps(value)[:100]}, where the ids of {', '.join(Boundaries._fields)} "
            "are meant; remove the key"
        )
    return found
