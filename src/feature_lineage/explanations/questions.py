"""Questions to a language model and their answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Malformed(ValueError):
    """A reply that cannot be read; the message says why."""


class Prompt(NamedTuple):
    """A question: what the system and the user say, tokens of its reply at most and as a rule, and if log-probabilities help."""

    system: str
    user: str
    limit: int
    expected: int
    logprobs: bool = False


class Reply(NamedTuple):
    """A reply: its text, and per token of it the text and the log-probabilities of the whole numbers that might have stood there."""

    text: str
    tokens: list[tuple[str, dict[str, float]]]


class Answer(NamedTuple):
    """What a reply was read as, or None and the reason; and what was billed for the question when it was first asked."""

    value: Any
    reason: str | None
    prompt_tokens: int
    completion_tokens: int
    usd: float


Ask = Callable[[Prompt, Callable[[Reply], Any], Any], Answer]
