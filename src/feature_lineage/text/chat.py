"""Conversations: rendered with a tokenizer's chat template, and encoded with a note of whose each token is."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from feature_lineage.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SECONDS = 10  # for one conversation; a template takes milliseconds


def conversation(value: Any, source: str, column: str) -> str:
    """A row's conversation as JSON; an empty text where there is none.

    Args:
        value: list of messages, blocks with a `role` and a `content`, or the same as JSON.
        source: where it is from, for messages.
        column: that holds it.

    Raises:
        InputError: it is something else.
    """
    if value is None or value == "":
        return ""
    with _explained(source, column):
        messages = json.loads(value) if isinstance(value, str) else value
        if not isinstance(messages, list):
            raise ValueError(f"a {type(messages).__name__}")
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise ValueError("a message without a `role`")
            if not isinstance(message.get("content"), str):
                raise ValueError(f"a message whose `content` is a {type(message.get('content')).__name__}, not text")
        if not messages:
            return ""
        return json.dumps([{k: v for k, v in one.items() if v is not None} for one in messages], ensure_ascii=False)


@contextmanager
def _explained(source: str, column: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{source}: column {column!r} holds no conversation ({error}); a conversation is a list of blocks with `role` and `content`; set "
            "the corpus's `messages`, or `text` if it is plain text"
        ) from None


class Rendered(NamedTuple):
    """A conversation as the model reads it, and where in it the chosen messages stand: pairs of characters, first and behind the last."""

    text: str
    spans: list[tuple[int, int]]


def render(messages: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, roles: str) -> Rendered:
    """Render a conversation with a tokenizer's chat template, which runs in transformers' sandbox.

    Args:
        messages: blocks with a `role` and a `content`.
        tokenizer: with a chat template.
        roles: `all`, `assistant` or `user`. Of one role, the spans are what its messages say, without the marks that the template puts around.

    Raises:
        InputError: the template cannot be run, takes longer than `SECONDS`, or changes what a chosen message says.
    """
    try:
        with _limited(SECONDS):
            text = tokenizer.apply_chat_template([dict(one) for one in messages], tokenize=False)
    except TimeoutError:
        raise _unusable(tokenizer, f"it ran for {SECONDS} s without an end") from None
    except Exception as error:  # whatever the template raises
        raise _unusable(tokenizer, " ".join(str(error).split())[:300]) from error
    if roles == "all":
        return Rendered(text, [(0, len(text))])
    spans, place = [], 0
    for message in messages:
        said = message["content"].strip()  # templates strip
        found = text.find(said, place)
        if found >= 0:
            place = found + len(said)
        if message["role"] != roles or not said:
            continue
        if found < 0:
            raise _unusable(
                tokenizer, f"it changes what a message of the {roles} says, {said[:60]!r}; `roles: all` reads it"
            )
        spans.append((found, place))
    return Rendered(text, spans)


def _unusable(tokenizer: PreTrainedTokenizerFast, why: str) -> InputError:
    return InputError(
        f"tokenizer {tokenizer.name_or_path}: its chat template cannot be used ({why}); correct chat_template in its tokenizer_config.json, or "
        "render the conversations yourself and name them under `text`"
    )


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in what takes longer, where signals reach it: in a process's main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Conversation(NamedTuple):
    """Token ids of a conversation, and whether each is of a chosen message, bool; both [tokens]."""

    ids: np.ndarray
    chosen: np.ndarray


class ChatEncoder:
    """Encodes conversations as their chat template renders them: special tokens that it writes are special, and nothing is put around.

    Args:
        tokenizer: with a chat template.
        roles: whose tokens are chosen; see `render`.
        dtype: of the ids.

    Raises:
        InputError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, roles: str, dtype: Any) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                f"tokenizer {tokenizer.name_or_path}: has no chat template, which a corpus with `messages` needs; name the tokenizer of an instruct "
                "version under `tokenizer`, or render the conversations yourself and name them under `text`"
            )
        self.tokenizer, self.roles, self.dtype = tokenizer, roles, dtype

    def __call__(self, conversations: Sequence[str]) -> Iterator[Conversation]:
        """The tokens of each conversation, given as JSON."""
        backend = self.tokenizer.backend_tokenizer
        rendered = [render(json.loads(text), self.tokenizer, self.roles) for text in conversations]
        before, backend.encode_special_tokens = backend.encode_special_tokens, False
        try:
            encoded = backend.encode_batch([one.text for one in rendered], add_special_tokens=False)
        finally:
            backend.encode_special_tokens = before
        for one, found in zip(rendered, encoded, strict=True):
            offsets = np.array(found.offsets, np.int64).reshape(-1, 2)
            chosen = np.zeros(len(offsets), bool)
            for first, last in one.spans:
                chosen |= (offsets[:, 0] < last) & (offsets[:, 1] > first)
            yield Conversation(np.array(found.ids, self.dtype), chosen)
