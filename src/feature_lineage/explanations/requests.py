"""The requests by which a language model is asked a question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from feature_lineage.explanations.questions import Prompt
from feature_lineage.explanations.service import Service, cost
from feature_lineage.progress import logger

TEMPERATURES = (0.0, 0.5, 1.0)  # one an attempt: the same question at 0 would get the same reply
ALTERNATIVES = 20  # log-probabilities asked for per token: the API's most
MESSAGE_TOKENS = 32  # what a message's frame is counted as, generously
THOUGHT_TOKENS = 4096  # that a reasoning model may use before its reply: they count as part of it
OPTIONS = ("logprobs", "temperature", "max_tokens")  # that some models refuse: they are then asked without
WITHOUT = [frozenset(options) for count in range(len(OPTIONS) + 1) for options in combinations(OPTIONS, count)]


class Request(NamedTuple):
    """A request as it is sent.

    Attributes:
        body: what the endpoint reads.
        digest: of the endpoint and the body, under which the ledger keeps the reply.
        limit: tokens of a reply at most.
        worst: USD that the reply can cost at most.
    """

    body: dict[str, Any]
    digest: str
    limit: int
    worst: float


class Requests:
    """The requests for one service; what it refused of the options is left out of those that follow."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._without: frozenset[str] = frozenset()

    def next(self, prompt: Prompt, attempt: int) -> Request:
        """The request to send now for an attempt at a question."""
        body = self.body(prompt, attempt, self._without)
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        worst = cost(self._service, most_prompt_tokens(prompt), limit)
        return Request(body, self.digest(body, attempt), limit, worst)

    def digests(self, prompt: Prompt, attempt: int) -> Iterator[str]:
        """Digests of all requests that an attempt at a question can have been sent as."""
        for without in WITHOUT:
            yield self.digest(self.body(prompt, attempt, without), attempt)

    def adapt(self, request: Request, problem: str) -> bool:
        """Whether the endpoint refuses one of `OPTIONS` in a request, going by what it says; it is then left out of those that follow."""
        named = {"logprobs": "logprob", "temperature": "temperature", "max_tokens": "max_completion_tokens"}
        option = next((option for option in OPTIONS if option in request.body and named[option] in problem), None)
        if option and option not in self._without:
            self._without |= {option}
            logger.warning("%s: refuses %s for %s; asked without", self._service.base_url, option, self._service.model)
        return option is not None

    def body(self, prompt: Prompt, attempt: int, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        """What the endpoint reads, without some of `OPTIONS`."""
        request = {
            "model": self._service.model,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
        }
        if "max_tokens" in without:
            request["max_completion_tokens"] = prompt.limit + THOUGHT_TOKENS
        else:
            request["max_tokens"] = prompt.limit
        if "temperature" not in without:
            request["temperature"] = TEMPERATURES[attempt]
        if prompt.logprobs and "logprobs" not in without:
            request |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        return request

    def digest(self, body: dict[str, Any], attempt: int) -> str:
        """Of the endpoint and a request's body, 32 hex digits."""
        # Without its temperature nothing in a request tells attempts apart.
        text = json.dumps([self._service.base_url, body, *([] if "temperature" in body else [attempt])], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def most_prompt_tokens(prompt: Prompt) -> int:
    """Tokens of a prompt at most: a token of text has at least one byte."""
    return len(prompt.system.encode()) + len(prompt.user.encode()) + 2 * MESSAGE_TOKENS
