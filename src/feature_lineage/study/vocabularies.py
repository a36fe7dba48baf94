"""Whether a model's own tokenizer has the same number for each token as the study's, as far as their `tokenizer.json` tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple


class Vocabulary(NamedTuple):
    """Numbers by token: of the tokens that text is made of, and of the special and added ones."""

    words: dict[str, int]
    added: dict[str, int]


def read_vocabulary(file: str | Path) -> Vocabulary | None:
    """The vocabulary of a `tokenizer.json`; None where it cannot be read, which the step that needs it says."""
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        words = content["model"]["vocab"]
        if isinstance(words, list):  # unigram: pairs of a token and its score
            words = {token: number for number, (token, _) in enumerate(words)}
        added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
        return Vocabulary({token: number for token, number in words.items() if token not in added}, added)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def disagreement(study: Vocabulary, model: Vocabulary, used: tuple[str, ...] = ()) -> str | None:
    """Where a model reads another token than the study means; None if nowhere.

    Text is made of words, so each must have its number in the model's own tokenizer. Added tokens may differ, such as placeholders that
    an instruct version uses, save those that the study puts between documents. What the model's tokenizer has beyond the study's is fine.

    Args:
        study: of the study's tokenizer.
        model: of the model's own.
        used: added tokens that the study puts between documents.
    """
    own = model.words | model.added
    asked: dict[str, Any] = study.words | {token: study.added[token] for token in used if token in study.added}
    wrong = [token for token, number in asked.items() if own.get(token) != number]
    if not wrong:
        return None
    token = wrong[0]
    there = f"{own[token]}" if token in own else "missing"
    return f"{len(wrong):,} of {len(asked):,} tokens differ, such as {token!r}: {asked[token]} and {there}"
