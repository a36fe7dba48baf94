"""How requests reach an endpoint: sent over HTTP, and sent again after a fault, until one has a reply.

Nothing here decides what a reply is or what is read of it (`completions`), so it is no part of a step's fingerprint.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai

from feature_lineage.errors import InputError, Stopped
from feature_lineage.explanations.budget import Budget
from feature_lineage.explanations.completions import LARGEST_REPLY, Completions, Failure, Received
from feature_lineage.explanations.key import Key
from feature_lineage.explanations.questions import Prompt
from feature_lineage.explanations.requests import Request, Requests
from feature_lineage.explanations.service import Service
from feature_lineage.progress import logger

TRIES = 8  # sendings of one request, until a reply arrives
UNANSWERED = 3  # questions in a row that an endpoint accepts and never answers, until the job ends
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two tries; they double
LONGEST_RETRY_AFTER = 600.0  # seconds that an endpoint may ask us to wait
WARNINGS = 10  # different problems of an endpoint that the log tells


class NoReply(Exception):
    """An endpoint that answers other questions gave this one no reply; the message says what it gave instead."""


class Transport:
    """Sends requests to one endpoint, from several threads, and waits for all of them when it asks for a pause.

    Args:
        service: where it is.
        key: what it is sent as a key.
        requests: what is sent.
        completions: what is read of what comes back.
        budget: what it may cost.
    """

    def __init__(
        self, service: Service, key: Key, requests: Requests, completions: Completions, budget: Budget
    ) -> None:
        self._service, self._key = service, key
        self._requests, self._completions, self._budget = requests, completions, budget
        self._client: openai.OpenAI | None = None
        self._resume = 0.0  # no request before this time: the endpoint asked for a pause
        self._stop = threading.Event()
        self._answered, self._unanswered = budget.ledger.answered, 0  # if it ever replied; questions in a row without
        self._told: set[str] = set()

    def stop(self) -> None:
        """Let requests under way end, and send no other."""
        self._stop.set()

    def reply(self, prompt: Prompt, attempt: int) -> dict[str, Any]:
        """Send an attempt at a question until a reply arrives, and keep it: the ledger's entry of it.

        An entry `declined` alone, which the ledger does not have, says why the model ended without a text.

        Raises:
            BudgetSpent: the budget does not hold it.
            NoReply: this question alone has none.
            Stopped: `stop` was called meanwhile.
            InputError: the endpoint refuses the key, the model or the request, does not answer or overruns the budget.
        """
        failure, pause = Failure(""), FIRST_WAIT
        for _ in range(TRIES):
            self._wait(self._resume - time.monotonic())
            request = self._requests.next(prompt, attempt)
            entry, found = self._send(request)
            if found is None:
                self._answered, self._unanswered = True, 0
                return entry or {}
            failure = found
            if failure.status in (400, 422) and self._requests.adapt(request, failure.problem):
                continue
            if (0 < failure.status < 500 and failure.status not in (408, 409, 429)) or _quota(failure):
                raise self._refused(failure.brief)
            self._tell(failure.brief)
            self._resume = max(self._resume, time.monotonic() + failure.after)
            self._wait(max(failure.after, pause * random.uniform(0.5, 1)))
            if failure.declined:
                return {"declined": failure.brief}
            pause = min(2 * pause, LONGEST_WAIT)
        self._unanswered += 1
        if failure.accepted and self._answered and self._unanswered < UNANSWERED:
            raise NoReply(failure.brief)  # others are answered: it may be this prompt
        raise InputError(
            f"{self._service.base_url} did not answer {TRIES} times in a row (model {self._service.model!r}; last: {failure.brief}); what "
            f"was paid is kept in {self._budget.ledger.path}; wait until it answers, or lower interpretation.parallel"
        )

    def _send(self, request: Request) -> tuple[dict[str, Any] | None, Failure | None]:
        """Send a request within the budget: the ledger's entry of what it came to, and why there is no reply, if so."""
        client = self._connected()
        self._budget.reserve(request)
        entry = None
        try:
            entry, failure = self._completions.read(request, self._exchange(client, request))
        finally:
            self._budget.settle(entry)
        self._budget.check(request, entry)
        return entry, failure

    def _exchange(self, client: openai.OpenAI, request: Request) -> Received:
        """Send a request, and read a response that has status 200 as far as its longest may be."""
        body = bytearray()
        try:
            with client.chat.completions.with_streaming_response.create(**request.body) as raw:
                for part in raw.iter_bytes():
                    body += part
                    if len(body) > LARGEST_REPLY:
                        return Received(None)
        except (openai.APIConnectionError, httpx.TransportError) as error:
            # Never sent; after a time-out or a broken connection nobody knows.
            never = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
            return Received(None, Failure(self._key.words(error)), unpaid=never)
        except openai.APIStatusError as error:
            codes = tuple(code for code in (error.code, error.type) if code)
            after = _retry_after(error.response.headers.get("retry-after"))
            problem = f"status {error.status_code}, {self._key.words(error)}"
            failure = Failure(problem, error.status_code, codes, after)
            return Received(None, failure, unpaid=not failure.perhaps_billed)
        return Received(bytes(body))

    def _connected(self) -> openai.OpenAI:
        if not self._client:
            self._client = openai.OpenAI(
                api_key=self._key.checked(),
                base_url=self._service.base_url,
                max_retries=0,
                timeout=self._service.timeout,
                # Prompts go to nobody else: no redirect is followed, and no proxy gets what is not encrypted.
                http_client=openai.DefaultHttpxClient(
                    follow_redirects=False, trust_env=urlsplit(self._service.base_url).scheme == "https"
                ),
            )
        return self._client

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise Stopped("another request failed")

    def _tell(self, problem: str) -> None:
        """Log a problem, the first time that it comes."""
        if problem not in self._told and len(self._told) < WARNINGS:
            self._told.add(problem)
            logger.warning("%s: a request failed (%s); sending it again", self._service.base_url, problem)

    def _refused(self, problem: str) -> InputError:
        service = self._service
        return InputError(
            f"{service.base_url} refuses requests for model {service.model!r}: {problem}; check interpretation.model, "
            f"interpretation.base_url, the key in the environment variable {service.key_env} and what is left on its account; what was "
            f"paid is kept in {self._budget.ledger.path}"
        )


def _quota(failure: Failure) -> bool:
    return "insufficient_quota" in failure.codes or "insufficient_quota" in failure.problem


def _retry_after(header: str | None) -> float:
    """Seconds that a `Retry-After` header asks for: a number or a date."""
    seconds = 0.0
    with suppress(TypeError, ValueError):
        try:
            seconds = float(header or 0)
        except ValueError:
            seconds = parsedate_to_datetime(header or "").timestamp() - time.time()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
