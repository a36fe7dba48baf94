"""Questions to a language model behind an OpenAI-compatible endpoint: within a budget, and with no reply ever paid twice.

Every reply is written to a ledger the moment it arrives, under a digest of the endpoint and the whole request, so that a job that is
killed, or run again with other settings, asks only what it has not asked before. A request is written there before it is sent, with
the most that it can cost: one whose reply never arrives (a time-out, here or at a gateway, a dropped connection, a kill) may have been
billed, so it goes on counting against the budget, though it is asked again.

A response with status 200 is a reply only if it holds a text. An error object, no choice, no text, a page or half a body in its place
is a failed request: it is sent again, what it bills counts, and it is never taken for a reply, not even from an older ledger.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import combinations
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import openai

from feature_lineage.errors import InputError, Stopped
from feature_lineage.explanations.ledger import Bill, Ledger, allowance
from feature_lineage.explanations.questions import Answer, Malformed, Prompt, Reply
from feature_lineage.jobs.job import stop_signal
from feature_lineage.progress import logger, progress

OPENAI = "https://api.openai.com/v1"
ATTEMPTS = 3  # replies to one question, until one can be read
TRIES = 8  # sendings of one request, until a reply arrives
UNANSWERED = 3  # questions in a row that an endpoint accepts and never answers, until the job ends
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two tries; they double
LONGEST_RETRY_AFTER = 600.0  # seconds that an endpoint may ask us to wait
TEMPERATURES = (0.0, 0.5, 1.0)  # one an attempt: the same question at 0 would get the same reply
ALTERNATIVES = 20  # log-probabilities asked for per token: the API's most
MESSAGE_TOKENS = 32  # what a message's frame is counted as, generously
THOUGHT_TOKENS = 4096  # that a reasoning model may use before its reply: they count as part of it
OPTIONS = ("logprobs", "temperature", "max_tokens")  # that some models refuse: they are then asked without
WITHOUT = [frozenset(options) for count in range(len(OPTIONS) + 1) for options in combinations(OPTIONS, count)]
LARGEST_REPLY = 1 << 26  # bytes; with all log-probabilities, the longest that is asked for has a tenth of it
LONGEST_TEXT = 1 << 18  # characters of a reply that are kept: the longest asked for has a tenth of it too
LONGEST_PROBLEM = 500  # characters of what an endpoint says of an error
MOST_TOKENS = 1 << 31  # that a reply can say it used; a column of the table holds the sum of many
LONGEST_EXCERPT = 200  # characters that are shown of a body that is no completion
WARNINGS = 10  # different problems of an endpoint that the log tells
BUDGET_SPENT = "interpretation.budget_usd is spent"
MALFORMED = f"malformed reply, {ATTEMPTS} times"
PROMPT_REFUSED = ("content_filter", "content_policy_violation", "invalid_prompt")  # an endpoint's codes for it

Item, Result = TypeVar("Item"), TypeVar("Result")


class BudgetSpent(Exception):
    """The request could cost more than is left."""


class NoReply(Exception):
    """An endpoint that answers other questions gave this one no reply; the message says what it gave instead."""


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


class Service(NamedTuple):
    """Where the language model is and what it costs.

    Attributes:
        model: its name there.
        base_url: of the endpoint.
        key_env: environment variable that holds the key; the key itself is in no attribute.
        prompt_price: USD per million tokens of prompts.
        completion_price: USD per million tokens of replies.
        budget: USD that all requests of all ledgers in a folder may cost; None for no limit.
        jobs: with a ledger of their own there, who share the budget equally.
        parallel: requests under way at once.
        timeout: seconds until a request is given up.
    """

    model: str
    base_url: str
    key_env: str
    prompt_price: float
    completion_price: float
    budget: float | None
    jobs: int
    parallel: int
    timeout: float


class Endpoint:
    """A language model that answers questions in parallel, each paid once.

    Args:
        service: where it is and what it costs.
        ledger: where its replies are kept.
    """

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self.service, self.ledger = service, ledger
        self.budget = None if service.budget is None else allowance(service.budget, service.jobs, ledger.path)
        self._key = os.environ.get(service.key_env, "").strip()  # a line break comes along from a file
        self._client: openai.OpenAI | None = None
        self._without: frozenset[str] = frozenset()
        self._resume = 0.0  # no request before this time: the endpoint asked for a pause
        self._stop = threading.Event()
        self._money = threading.Condition()
        self._under_way = 0
        self._answered, self._unanswered = ledger.answered, 0  # if it ever replied; questions in a row without a reply
        self._told: set[str] = set()
        self._digests: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def ask(self, prompt: Prompt, parse: Callable[[Reply], Any], guess: Any = None) -> Answer:
        """Ask until `parse` can read the reply, `ATTEMPTS` times at most; `guess` is for `Estimate.ask`.

        Args:
            prompt: the question.
            parse: turns a reply into a value, or raises `Malformed`.
            guess: not used here.

        Raises:
            InputError: the endpoint refuses the key, the model or the request, or does not answer.
        """
        return self._answer(prompt, parse, self._fetch)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`function` of each item, as many at once as the service allows; the first error ends all, after replies under way."""
        errors: list[BaseException] = []

        def work(item: Item) -> Result:
            try:
                return function(item)
            except BaseException as error:
                errors.append(error)
                self._stop.set()
                raise

        with (
            stop_signal() as stopping,
            progress(len(items), "feature", function.__name__) as bar,
            ThreadPoolExecutor(self.service.parallel) as pool,
        ):
            try:
                results = [pool.submit(work, item) for item in items]
                waiting: set[Future[Result]] = set(results)
                while waiting:
                    done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    bar.update(len(done))
                    if stopping():
                        raise Stopped("stopped; the replies so far are kept, and the job goes on from them")
            except BaseException as error:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise (errors or [error])[0] from None
        return [future.result() for future in results]

    def _answer(
        self, prompt: Prompt, parse: Callable[[Reply], Any], fetch: Callable[[Prompt, int], dict[str, Any]]
    ) -> Answer:
        value, reason = self._read(prompt, parse, fetch)
        billed = Bill()
        for digest in set(self._requests(prompt)):
            billed = billed.plus(self.ledger.bill(digest))
        return Answer(value, reason, *billed)

    def _read(
        self, prompt: Prompt, parse: Callable[[Reply], Any], fetch: Callable[[Prompt, int], dict[str, Any]]
    ) -> tuple[Any, str | None]:
        reason = ""
        for attempt in range(ATTEMPTS):
            try:
                entry = fetch(prompt, attempt)
            except BudgetSpent:
                return None, BUDGET_SPENT
            except NoReply as error:
                return None, f"the endpoint gave no reply, {TRIES} times: {error}"
            if "refused" in entry:
                return None, f"the endpoint refuses the prompt: {entry['refused']}"
            if "declined" in entry:
                reason = f"no whole text, {ATTEMPTS} times: {entry['declined']}"
                continue
            try:
                if entry["finish"] == "length":
                    raise Malformed("no whole text (length)")
                if not _encodes(entry["text"]):
                    raise Malformed("text that is not valid Unicode")
                tokens = [(token, dict(numbers)) for token, numbers in entry["tokens"]]
                return parse(Reply(entry["text"], tokens)), None
            except Malformed as error:
                reason = f"{MALFORMED}: {error}"
        return None, reason

    # One request.

    def _request(self, prompt: Prompt, attempt: int, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        request = {
            "model": self.service.model,
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

    def _digest(self, request: dict[str, Any], attempt: int) -> str:
        # Without its temperature nothing in a request tells attempts apart.
        text = json.dumps(
            [self.service.base_url, request, *([] if "temperature" in request else [attempt])], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _requests(self, prompt: Prompt) -> Iterator[str]:
        """Digests of all requests that a question can have been asked by."""
        for attempt in range(ATTEMPTS):
            for without in WITHOUT:
                yield self._digest(self._request(prompt, attempt, without), attempt)

    def stored(self, prompt: Prompt, attempt: int) -> dict[str, Any] | None:
        """The reply to an attempt of a question, if it is in the ledger; one without some of `OPTIONS` serves too."""
        for without in WITHOUT:
            if found := self.ledger.reply(self._digest(self._request(prompt, attempt, without), attempt)):
                return found
        return None

    def _fetch(self, prompt: Prompt, attempt: int) -> dict[str, Any]:
        with self._digests[self._digest(self._request(prompt, attempt), attempt)]:
            return self.stored(prompt, attempt) or self._send(prompt, attempt)

    def _send(self, prompt: Prompt, attempt: int) -> dict[str, Any]:
        failure, pause = Failure(""), FIRST_WAIT
        for _ in range(TRIES):
            self._wait(self._resume - time.monotonic())
            request = self._request(prompt, attempt, self._without)
            digest = self._digest(request, attempt)
            limit = request.get("max_tokens") or request["max_completion_tokens"]
            worst = cost(self.service, most_prompt_tokens(prompt), limit)
            client = self._connected()
            self._reserve(digest, worst)
            entry = None
            try:
                entry, found = self._exchange(client, request, digest, worst)
            finally:
                self._settle(entry)
            if self.budget is not None and entry and entry.get("usd", 0.0) > worst * (1 + 1e-9):
                raise self._overbilled(entry, limit)
            if found is None:
                self._answered, self._unanswered = True, 0
                return entry or {}
            failure = found
            if failure.status in (400, 422) and (option := _refused_option(request, failure.problem)):
                if option not in self._without:
                    self._without |= {option}
                    logger.warning(
                        "%s: refuses %s for %s; asked without", self.service.base_url, option, self.service.model
                    )
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
            f"{self.service.base_url} did not answer {TRIES} times in a row (model {self.service.model!r}; last: {failure.brief}); what "
            f"was paid is kept in {self.ledger.path}; wait until it answers, or lower interpretation.parallel"
        )

    def _exchange(
        self, client: openai.OpenAI, request: dict[str, Any], digest: str, worst: float
    ) -> tuple[dict[str, Any] | None, Failure | None]:
        """Send a request: the ledger's entry of what it came to (None: it may have been billed), and why there is no reply, if so."""
        unpaid = {"unpaid": digest}
        try:
            body = self._call(client, request)
        except (openai.APIConnectionError, httpx.TransportError) as error:
            # Never sent; after a time-out or a broken connection nobody knows.
            never = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
            return unpaid if never else None, Failure(self._words(error))
        except openai.APIStatusError as error:
            status, codes = error.status_code, tuple(code for code in (error.code, error.type) if code)
            failure = Failure(f"status {status}, {self._words(error)}", status, codes)
            failure = failure._replace(after=_retry_after(error.response.headers.get("retry-after")))
            entry = None if _perhaps_billed(status) else unpaid
        else:
            entry, failure = self._completion(body, digest, worst)
        refused = [
            code for code in PROMPT_REFUSED if failure and failure.status in (400, 422) and code in failure.codes
        ]
        if refused:
            bill = {name: entry[name] for name in Bill._fields} if entry and "failed" in entry else {}
            return _entry(digest, 0.0, self.service.model) | bill | {"refused": refused[0]}, None
        return entry, failure

    def _call(self, client: openai.OpenAI, request: dict[str, Any]) -> bytes | None:
        """Send a request; the body of the response, or None if it is longer than any that was asked for."""
        body = bytearray()
        with client.chat.completions.with_streaming_response.create(**request) as raw:
            for part in raw.iter_bytes():
                body += part
                if len(body) > LARGEST_REPLY:
                    return None
        return bytes(body)

    def _completion(
        self, body: bytes | None, digest: str, worst: float
    ) -> tuple[dict[str, Any] | None, Failure | None]:
        """What a body with status 200 is: an entry of the ledger, and why it is no reply, if it is none.

        Anything can stand in it. Without its usage, a reply costs the most that it can.
        """
        if body is None:
            return None, Failure(f"a body of more than {LARGEST_REPLY:,} bytes", accepted=True, declined=True)
        found = None
        with suppress(ValueError, RecursionError):
            found = json.loads(body)
        bill = _usage(found, self.service)
        try:
            failure = _failure(found, body)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            failure = Failure("a reply in another form")
        if failure:
            failure = failure._replace(problem=self._words(failure.problem), accepted=True)
            if bill is None:
                known = failure.status and not _perhaps_billed(failure.status)
                return {"unpaid": digest} if known else None, failure
            return {"failed": digest, **bill._asdict(), "problem": failure.brief}, failure
        choice = found["choices"][0]
        entry = _entry(digest, worst, self.service.model) | (bill or Bill(usd=worst))._asdict()
        entry |= {"text": self._hidden(_text(choice)), "finish": self._hidden(choice.get("finish_reason"))[:32]}
        entry["tokens"] = _numbers(choice.get("logprobs"), entry["text"])
        return entry, None

    def _connected(self) -> openai.OpenAI:
        service = self.service
        if self._client:
            return self._client
        if not self._key and service.base_url == OPENAI:
            raise InputError(
                f"interpretation.key_env: the environment variable {service.key_env} is not set; export the key for {service.base_url} in it"
            )
        if not all("!" <= character <= "~" for character in self._key):
            raise InputError(
                f"interpretation.key_env: what the environment variable {service.key_env} holds is no key, it has blanks or characters "
                "other than ASCII in it; export the key anew"
            )
        if self._key and not _private(service.base_url):
            raise InputError(
                f"interpretation.base_url: the key in the environment variable {service.key_env} would travel unencrypted to "
                f"{service.base_url}; use https, a tunnel to it from localhost, or, if it needs no key, a key_env that is not set"
            )
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=service.base_url,
            max_retries=0,
            timeout=service.timeout,
            # Prompts go to nobody else: no redirect is followed, and no proxy gets what is not encrypted.
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False, trust_env=urlsplit(service.base_url).scheme == "https"
            ),
        )
        return self._client

    def _refused(self, problem: str) -> InputError:
        service = self.service
        return InputError(
            f"{service.base_url} refuses requests for model {service.model!r}: {problem}; check interpretation.model, "
            f"interpretation.base_url, the key in the environment variable {service.key_env} and what is left on its account; what was "
            f"paid is kept in {self.ledger.path}"
        )

    def _hidden(self, text: object) -> str:
        """Text without the key, which some endpoints quote; a word as short as `none` is no key."""
        text = str(text)
        if len(self._key) >= 8:
            for form in _forms(self._key):
                text = text.replace(form, "***")
        return text

    def _words(self, problem: object) -> str:
        """What an endpoint says of an error: without the key, on one line, as text that can be written down."""
        return " ".join(self._hidden(problem).encode("utf-8", "replace").decode().split())

    def _tell(self, problem: str) -> None:
        """Log a problem, the first time that it comes."""
        if problem not in self._told and len(self._told) < WARNINGS:
            self._told.add(problem)
            logger.warning("%s: a request failed (%s); sending it again", self.service.base_url, problem)

    def _overbilled(self, entry: dict[str, Any], limit: int) -> InputError:
        return InputError(
            f"{self.service.base_url} billed USD {entry['usd']:.4f} ({entry['prompt_tokens']:,} prompt and "
            f"{entry['completion_tokens']:,} reply tokens) for a request whose reply was limited to {limit:,} tokens: with such bills "
            f"interpretation.budget_usd cannot be kept, so nothing more is sent. USD {self.ledger.spent:.4f} is spent, all that was paid is "
            f"kept in {self.ledger.path}; use an endpoint and model that keep to max_tokens"
        )

    # Waiting and money.

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise Stopped("another request failed")

    def _reserve(self, digest: str, worst: float) -> None:
        """Write that a request is sent, once it is sure that the budget holds it; waits for those under way, which may cost less."""
        with self._money:
            while self.budget is not None and self.ledger.spent + worst > self.budget + 1e-9:
                if not self._under_way:
                    raise BudgetSpent
                self._money.wait()
            self.ledger.write({"asked": digest, "usd": worst})
            self._under_way += 1

    def _settle(self, entry: dict[str, Any] | None) -> None:
        with self._money:
            try:
                if entry:
                    self.ledger.write(entry)
            finally:
                self._under_way -= 1
                self._money.notify_all()


def _private(url: str) -> bool:
    """Whether nobody between here and an address can read what is sent."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    return False


def _forms(key: str) -> list[str]:
    """A key as it is, as a URL and as JSON spell it, and in base64 alone or after `Bearer `."""
    encoded = [base64.b64encode(text.encode()).decode() for text in (key, f"Bearer {key}")]
    return [key, quote(key, safe=""), json.dumps(key)[1:-1], *encoded, *(text.rstrip("=") for text in encoded)]


def most_prompt_tokens(prompt: Prompt) -> int:
    """Tokens of a prompt at most: a token of text has at least one byte."""
    return len(prompt.system.encode()) + len(prompt.user.encode()) + 2 * MESSAGE_TOKENS


def cost(service: Service, prompt_tokens: int, completion_tokens: int) -> float:
    """USD for so many tokens."""
    return (prompt_tokens * service.prompt_price + completion_tokens * service.completion_price) / 1e6


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
    if not isinstance(found, dict):
        excerpt = body[: 4 * LONGEST_EXCERPT].decode("utf-8", "replace")[:LONGEST_EXCERPT]
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
        return Failure(f"{missing}: {told}" if told else f"{missing} in the completion")
    text, finish, refusal = _text(choice), choice.get("finish_reason"), choice["message"].get("refusal")
    if finish == "error":
        return Failure("the completion ended with an error")
    if not text and isinstance(refusal, str) and refusal:
        return Failure(f"the model refuses: {refusal}", declined=True)
    if finish == "content_filter":
        return Failure("stopped by a content filter", declined=True)
    if text is None:
        reason = finish if isinstance(finish, str) and _encodes(finish) else "unreadable"
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


def _encodes(text: str) -> bool:
    """Whether a text can be written down: JSON lets halves of surrogate pairs stand alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _perhaps_billed(status: int) -> bool:
    """A gateway that gave up (408, 502, 504 and the like) does not know what became of the request behind it."""
    return status == 408 or (status >= 500 and status not in (500, 503))


def _refused_option(request: dict[str, Any], problem: str) -> str | None:
    """Which of `OPTIONS` in a request an endpoint refuses, going by what it says."""
    named = {"logprobs": "logprob", "temperature": "temperature", "max_tokens": "max_completion_tokens"}
    return next((option for option in OPTIONS if option in request and named[option] in problem), None)


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
