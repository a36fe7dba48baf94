"""Questions to a language model behind an OpenAI-compatible endpoint: within a budget, and with no reply ever paid twice.

Every reply is written to a ledger the moment it arrives, under a digest of the endpoint and the whole request, so that a job that is
killed, or run again with other settings, asks only what it has not asked before. A request is written there before it is sent, with
the most that it can cost: one whose reply never arrives (a time-out, here or at a gateway, a dropped connection, a kill) may have been
billed, so it goes on counting against the budget, though it is asked again.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from feature_lineage.errors import Stopped
from feature_lineage.explanations.budget import BUDGET_SPENT, Budget, BudgetSpent
from feature_lineage.explanations.completions import Completions, encodes
from feature_lineage.explanations.key import Key
from feature_lineage.explanations.ledger import Bill, Ledger
from feature_lineage.explanations.questions import Answer, Malformed, Prompt, Reply
from feature_lineage.explanations.requests import TEMPERATURES, Requests
from feature_lineage.explanations.service import Service
from feature_lineage.explanations.transport import TRIES, NoReply, Transport
from feature_lineage.jobs.job import stop_signal
from feature_lineage.progress import progress

ATTEMPTS = len(TEMPERATURES)  # replies to one question, until one can be read
MALFORMED = f"malformed reply, {ATTEMPTS} times"

Item, Result = TypeVar("Item"), TypeVar("Result")


class Endpoint:
    """A language model that answers questions in parallel, each paid once.

    Args:
        service: where it is and what it costs.
        ledger: where its replies are kept.
    """

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self.service, self.ledger = service, ledger
        self.budget, self.requests = Budget(service, ledger), Requests(service)
        key = Key(service)
        self._transport = Transport(service, key, self.requests, Completions(service, key), self.budget)
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
                self._transport.stop()
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
                self._transport.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise (errors or [error])[0] from None
        return [future.result() for future in results]

    def _answer(
        self, prompt: Prompt, parse: Callable[[Reply], Any], fetch: Callable[[Prompt, int], dict[str, Any]]
    ) -> Answer:
        value, reason = self._read(prompt, parse, fetch)
        billed = Bill()
        for digest in self._sent(prompt):
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
                if not encodes(entry["text"]):
                    raise Malformed("text that is not valid Unicode")
                tokens = [(token, dict(numbers)) for token, numbers in entry["tokens"]]
                return parse(Reply(entry["text"], tokens)), None
            except Malformed as error:
                reason = f"{MALFORMED}: {error}"
        return None, reason

    def _sent(self, prompt: Prompt) -> set[str]:
        """Digests of all requests that a question can have been sent as."""
        return {digest for attempt in range(ATTEMPTS) for digest in self.requests.digests(prompt, attempt)}

    def stored(self, prompt: Prompt, attempt: int) -> dict[str, Any] | None:
        """The reply to an attempt at a question, if it is in the ledger; one without some of the options serves too."""
        for digest in self.requests.digests(prompt, attempt):
            if found := self.ledger.reply(digest):
                return found
        return None

    def _fetch(self, prompt: Prompt, attempt: int) -> dict[str, Any]:
        with self._digests[self.requests.digest(self.requests.body(prompt, attempt), attempt)]:
            return self.stored(prompt, attempt) or self._transport.reply(prompt, attempt)
