"""Where the language model that explains features is, and what it costs."""

from __future__ import annotations

from typing import NamedTuple

OPENAI = "https://api.openai.com/v1"


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


def cost(service: Service, prompt_tokens: int, completion_tokens: int) -> float:
    """USD for so many tokens."""
    return (prompt_tokens * service.prompt_price + completion_tokens * service.completion_price) / 1e6
