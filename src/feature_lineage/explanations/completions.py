"""What came of a request: a reply, or why there is none.

A response with status 200 is a reply only if it holds a text. An error object, no choice, no text, a page or half a body in its place
is a failed request: it is sent again, what it bills counts, and it is never taken for a reply, not even from an older ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from feature_lineage.explanations.key import Key
from feature_lineage.explanations.ledger import Bill
from feature_lineage.explanations.requests import Request
from feature_lineage.explanations.service import Service, cost

LARGEST_REPLY = 1 << 26  # bytes; with all log-probabilities, the longest that is asked for has a tenth of it
LONGEST_TEXT = 1 << 18  # characters of a reply that are kept: the longest asked for has a tenth of it too
LONGEST_PROBLEM = 500  # characters of what an endpoint says of an error
MOST_TOKENS = 1 << 31  # that a reply can say it used; a column of the table holds the sum of many
LONGEST_EXCERPT = 200  # characters that are shown of a body that is no completion
PROMPT_REFUSED = ("content_filter", "content_policy_violation", "invalid_prompt")  # an endpoint's codes for it


class Failure(NamedTuple):
    """Why a request has no reply.

    Attributes:
        problem: in words, on one line, however long.
        status: HTTP status of the response, or the one that its error object names; 0 for neither.
        codes: what the endpoint calls the error.
        after: seconds that it asks us to wait.
        accepted: whether the response itself had status 200.
        declined: whether the model ended without a text (a refusal, a filter, the limit): the same request would end so again.
    """

    problem: str
    status: int = 0
    codes: tuple[str, ...] = ()
    after: float = 0.0
    accepted: bool = False
    declined: bool = False

    @property
    def brief(self) -> str:
        """The problem, not at any length."""
        return self.problem if len(self.problem) <= LONGEST_PROBLEM else f"{self.problem[:LONGEST_PROBLEM]} …"

    @property
    def perhaps_billed(self) -> bool:
        """Whether its status leaves that open: a gateway that gave up (408, 502, 504 and the like) does not know what became of the
        request behind it."""
        return self.status == 408 or (self.status >= 500 and self.status not in (500, 503))


class Received(NamedTuple):
    """What came back for a request.

    Attributes:
        body: of a response with status 200; None if it has more than `LARGEST_REPLY` bytes.
        failure: why there is no such response, and no body.
        unpaid: whether it is sure that such a request was not billed.
    """

    body: bytes | None
    failure: Failure | None = None
    unpaid: bool = False


class Completions:
    """Reads what comes back from one service; the key is in nothing that is read."""

    def __init__(self, service: Service, key: Key) -> None:
        self._service, self._key = service, key

    def read(self, request: Request, received: Received) -> tuple[dict[str, Any] | None, Failure | None]:
        """The ledger's entry of what a request came to (None: it may have been billed), and why there is no reply, if so."""
        if received.failure:
            entry, failure = {"unpaid": request.digest} if received.unpaid else None, received.failure
        else:
            entry, failure = self._completion(request, received.body)
        refused = [
            code for code in PROMPT_REFUSED if failure and failure.status in (400, 422) and code in failure.codes
        ]
        if refused:
            bill = {name: entry[name] for name in Bill._fields} if entry and "failed" in entry else {}
            return _entry(request.digest, 0.0, self._service.model) | bill | {"refused": refused[0]}, None
        return entry, failure

    def _completion(self, request: Request, body: bytes | None) -> tuple[dict[str, Any] | None, Failure | None]:
        """What a body with status 200 is: an entry of the ledger, and why it is no reply, if it is none.

        Anything can stand in it. Without its usage, a reply costs the most that it can.
        """
        if body is None:
            return None, Failure(f"a body of more than {LARGEST_REPLY:,} bytes", accepted=True, declined=True)
        found = None
        with suppress(ValueError, RecursionError):
            found = json.loads(body)
        bill = _usage(found, self._service)
        try:
            failure = _failure(found, body)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            failure = Failure("a reply in another form")
        if failure:
            failure = failure._replace(problem=self._key.words(failure.problem), accepted=True)
            if bill is None:
                known = failure.status and not failure.perhaps_billed
                return {"unpaid": request.digest} if known else None, failure
            return {"failed": request.digest, **bill._asdict(), "problem": failure.brief}, failure
        choice = found["choices"][0]
        bill = bill or Bill(usd=request.worst)
        entry = _entry(request.digest, request.worst, self._service.model) | bill._asdict()
        entry |= {"text": self._key.hidden(_text(choice)), "finish": self._key.hidden(choice.get("finish_reason"))[:32]}
        entry["tokens"] = _numbers(choice.get("logprobs"), entry["text"])
        return entry, None


def _entry(digest: str, usd: float, model: str) -> dict[str, Any]:
    """A reply without a text."""
    entry: dict[str, Any] = {"reply": digest, "usd": usd, "prompt_tokens": 0, "completion_tokens": 0}
    return entry | {"model": model, "text": None, "finish": "unreadable", "tokens": []}


def _usage(found: Any, service: Service) -> Bill | None:
    """What a body says that it bills; None if it does not say, or says what cannot be.

    Gemini's thoughts are billed as a reply, and counted in the total alone.
    """
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        usage = found["usage"]
        prompt, completion = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        completion = max(completion, int(usage.get("total_tokens") or 0) - prompt)
        if 0 <= prompt < MOST_TOKENS and 0 <= completion < MOST_TOKENS:
            return Bill(prompt, completion, cost(service, prompt, completion))
    return None


def _text(choice: Mapping[str, Any]) -> str | None:
    """The text of a choice; some endpoints send it in parts."""
    content = choice["message"].get("content")
    if isinstance(content, list):
        parts = [part["text"] for part in content if part.get("type") == "text"]
        content = "".join(parts) if parts else None
    return content if isinstance(content, str) else None


def _failure(found: Any, body: bytes) -> Failure | None:
    """Why a body with status 200 holds no reply, None if it holds one; any `LookupError`, `TypeError` or the like if it has no form."""
    excerpt = body[: 4 * LONGEST_EXCERPT].decode("utf-8", "replace")[:LONGEST_EXCERPT]
    if not isinstance(found, dict):
        kind = "a stream of events" if excerpt.lstrip().startswith(("data:", "event:", ":")) else "no JSON object"
        return Failure(f"{kind} in place of a completion: {excerpt!r}")
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    for holder in (found, choice):
        if isinstance(holder, dict) and _says_something(error := holder.get("error")):
            return _error(error)
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        told = next((found[name] for name in ("message", "detail", "msg") if isinstance(found.get(name), str)), None)
        missing = "no message in its choice" if choice else "no choice"
        return Failure(f"{missing}: {told}" if told else f"{missing} in the completion: {excerpt!r}")
    text, finish, refusal = _text(choice), choice.get("finish_reason"), choice["message"].get("refusal")
    if finish == "error":
        return Failure("the completion ended with an error")
    if not text and isinstance(refusal, str) and refusal:
        return Failure(f"the model refuses: {refusal}", declined=True)
    if finish == "content_filter":
        return Failure("stopped by a content filter", declined=True)
    if text is None:
        reason = finish if isinstance(finish, str) and encodes(finish) else "unreadable"
        return Failure(f"no text in the completion ({reason[:32]})", declined=finish == "length")
    if not text.strip():  # thoughts alone, as a rule
        return Failure("an empty text in the completion", declined=True)
    if len(text) > LONGEST_TEXT:
        return Failure(f"a text of {len(text):,} characters", declined=True)
    return None


def _says_something(error: Any) -> bool:
    return any(error.values()) if isinstance(error, dict) else bool(error)


def _error(error: Any) -> Failure:
    """An error object in a body with status 200; gateways write the status that they were given into its code."""
    if not isinstance(error, dict):
        return Failure(f"an error in place of a completion: {error}")
    codes = tuple(str(error[name]) for name in ("code", "type", "status") if error.get(name))
    status = next((int(code) for code in codes if code.isascii() and code.isdigit() and 400 <= int(code[:4]) < 600), 0)
    said = error.get("message") or json.dumps(error)
    return Failure(
        f"an error in place of a completion: {said}" + "".join(f" ({code})" for code in codes[:1]), status, codes
    )


def encodes(text: str) -> bool:
    """Whether a text can be written down: JSON lets halves of surrogate pairs stand alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _numbers(logprobs: Any, text: str) -> list[tuple[str, dict[str, float]]]:
    """Of a completion's log-probabilities, each token and the whole numbers among its alternatives; nothing if they don't fit the text."""
    found: list[tuple[str, dict[str, float]]] = []
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        for token in logprobs["content"]:
            numbers: dict[str, float] = {}
            for other in token["top_logprobs"]:
                name = other["token"].strip()
                if name.isascii() and name.isdigit() and len(name) < 10:
                    numbers.setdefault(name, float(other["logprob"]))
            found.append((token["token"], numbers))
        if "".join(token for token, _ in found) == text:
            return found
    return []
