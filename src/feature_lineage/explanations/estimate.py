"""What questions will cost, before they are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feature_lineage.errors import InputError
from feature_lineage.explanations.client import Endpoint
from feature_lineage.explanations.questions import Answer, Prompt, Reply
from feature_lineage.explanations.requests import most_prompt_tokens
from feature_lineage.explanations.service import cost
from feature_lineage.progress import logger


class Estimate:
    """Answers from the ledger, and counts what the others will cost: the same questions, before the first is paid."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.requests, self.prompt_tokens, self.completion_tokens, self.usd = 0, 0, 0, 0.0

    def ask(self, prompt: Prompt, parse: Callable[[Reply], Any], guess: Any) -> Answer:
        """The stored answer, or `guess` in its place."""

        def fetch(prompt: Prompt, attempt: int) -> dict[str, Any]:
            if not (found := self.endpoint.stored(prompt, attempt)):
                raise LookupError
            return found

        try:
            return self.endpoint._answer(prompt, parse, fetch)
        except LookupError:
            # Three bytes a token: English has four or five, lists of tokens and numbers two or three.
            tokens = most_prompt_tokens(prompt) // 3
            self.requests += 1
            self.prompt_tokens += tokens
            self.completion_tokens += prompt.expected
            self.usd += cost(self.endpoint.service, tokens, prompt.expected)
            return Answer(guess, None, 0, 0, 0.0)

    def check(self) -> None:
        """Log the estimate; raises `InputError` if it exceeds what is left for this job.

        Each job sees its own requests only. Shares are equal, so it refuses if as much for each job would exceed the budget.
        """
        service, budget, spent = self.endpoint.service, self.endpoint.budget.limit, self.endpoint.ledger.spent
        text = (
            f"{self.requests:,} requests, {self.prompt_tokens:,} prompt and {self.completion_tokens:,} reply tokens, USD {self.usd:.2f} "
            f"(× {service.jobs} models, USD {self.usd * service.jobs:.2f})"
        )
        if budget is None:
            logger.info("estimate: %s; no budget is set", text)
            return
        left = (
            f"USD {max(0.0, budget - spent):.2f} is left for this model of the budget of {service.budget:.2f}, which {service.jobs} "
            "models share equally, less what was spent before"
        )
        logger.info("estimate: %s; %s", text, left)
        if self.requests and spent + self.usd > budget:
            raise InputError(
                f"interpretation.budget_usd: {text} are estimated, but {left}; raise budget_usd, or lower interpretation.features; "
                "nothing was sent"
            )
