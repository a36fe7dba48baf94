"""The budget of a job's requests, which is never exceeded."""

from __future__ import annotations

import threading
from typing import Any

from feature_lineage.errors import InputError
from feature_lineage.explanations.ledger import Ledger, allowance
from feature_lineage.explanations.requests import Request
from feature_lineage.explanations.service import Service

BUDGET_SPENT = "interpretation.budget_usd is spent"


class BudgetSpent(Exception):
    """The request could cost more than is left."""


class Budget:
    """What the requests of one ledger may cost together.

    Args:
        service: the budget of all ledgers, and how many jobs share it.
        ledger: where each request is written before it is sent, and what it came to.

    Attributes:
        ledger: the same.
        limit: USD; None for no limit.
    """

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self.ledger = ledger
        self.limit = None if service.budget is None else allowance(service.budget, service.jobs, ledger.path)
        self._base_url = service.base_url
        self._money = threading.Condition()
        self._under_way = 0

    def reserve(self, request: Request) -> None:
        """Write that a request is sent, once it is sure that the budget holds it; waits for those under way, which may cost less.

        Raises:
            BudgetSpent: the budget does not hold it.
        """
        with self._money:
            while self.limit is not None and self.ledger.spent + request.worst > self.limit + 1e-9:
                if not self._under_way:
                    raise BudgetSpent
                self._money.wait()
            self.ledger.write({"asked": request.digest, "usd": request.worst})
            self._under_way += 1

    def settle(self, entry: dict[str, Any] | None) -> None:
        """Write what a request came to, an entry of the ledger; None if it may have been billed."""
        with self._money:
            try:
                if entry:
                    self.ledger.write(entry)
            finally:
                self._under_way -= 1
                self._money.notify_all()

    def check(self, request: Request, entry: dict[str, Any] | None) -> None:
        """Raise `InputError` if a request was billed with more than it can cost: with such bills no budget can be kept."""
        if self.limit is not None and entry and entry.get("usd", 0.0) > request.worst * (1 + 1e-9):
            raise InputError(
                f"{self._base_url} billed USD {entry['usd']:.4f} ({entry['prompt_tokens']:,} prompt and "
                f"{entry['completion_tokens']:,} reply tokens) for a request whose reply was limited to {request.limit:,} tokens: with such "
                f"bills interpretation.budget_usd cannot be kept, so nothing more is sent. USD {self.ledger.spent:.4f} is spent, all that was "
                f"paid is kept in {self.ledger.path}; use an endpoint and model that keep to max_tokens"
            )
