"""What a language model makes of features, and how well its explanations predict them (paper, appendix C; Bricken et al. 2023, Bills et al. 2023).

The windows of the sample are parted into two sides, documents kept together. Of a feature, excerpts are drawn from both sides in the same
way: those on one side are explained; on the other the explanation is held against the true activations. The side that is explained also
gives the baseline that needs no language model: at each token, the feature's mean activation on that token of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from feature_lineage.errors import InputError
from feature_lineage.explanations.budget import BUDGET_SPENT
from feature_lineage.explanations.client import Endpoint
from feature_lineage.explanations.estimate import Estimate
from feature_lineage.explanations.excerpts import Chosen, Evidence, Excerpts
from feature_lineage.explanations.prompts import (
    _shown,
    active,
    detect_prompt,
    explain_prompt,
    read_detection,
    read_explanation,
    read_simulation,
    simulate_prompt,
)
from feature_lineage.explanations.questions import Answer, Ask, Prompt, Reply
from feature_lineage.explanations.verdict import budget_note
from feature_lineage.progress import logger

INTERPRETATIONS = pa.schema(
    [
        ("feature", pa.int32()),
        ("fate", pa.string()),
        ("single_token", pa.bool_()),
        ("explanation", pa.string()),
        ("simulation", pa.float64()),
        ("simulation_spearman", pa.float64()),
        ("detection", pa.float64()),
        ("shuffled", pa.float64()),
        ("token_mean", pa.float64()),
        ("token_mean_spearman", pa.float64()),
        ("reason", pa.string()),
        ("model_used", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
    ]
)

SIMULATED = 15  # excerpts in a request: longer lists make a language model lose count
SNIPPETS = 10  # with and without activation, in a detection request
HOPELESS = 5  # questions of one kind without one readable reply, after which a language model is asked no more
NEVER_ACTIVE = "never active in the excerpts to be"
CONSTANT = "constant activations where it is scored"


def pearson(predicted: np.ndarray, true: np.ndarray) -> float | None:
    """Pearson correlation over all elements; None if either side is constant."""
    return (
        None
        if np.ptp(predicted) == 0 or np.ptp(true) == 0
        else float(np.corrcoef(predicted.ravel(), true.ravel())[0, 1])
    )


def spearman(predicted: np.ndarray, true: np.ndarray) -> float | None:
    """Spearman's rank correlation over all elements; None if either side is constant."""
    return pearson(stats.rankdata(predicted), stats.rankdata(true))


def balanced_accuracy(said: np.ndarray, true: np.ndarray) -> float:
    """Mean of the shares of the true ones and of the others that are told right; both bool of one length, neither kind missing."""
    return float((said[true].mean() + (~said[~true]).mean()) / 2)


def _correlated(predicted: np.ndarray, true: np.ndarray) -> tuple[dict[str, float], str | None]:
    """Both correlations; 0 for a prediction that is the same at every token, which tells nothing."""
    if not true.size or np.ptp(true) == 0:
        return {}, CONSTANT
    if np.ptp(predicted) == 0:
        return {"pearson": 0.0, "spearman": 0.0}, None
    return {"pearson": pearson(predicted, true), "spearman": spearman(predicted, true)}, None


def baseline(chosen: Chosen, evidence: Evidence) -> dict[str, Any]:
    """A feature's row with the score of the token-statistics baseline alone."""
    row: dict[str, Any] = dict.fromkeys(INTERPRETATIONS.names)
    row |= chosen._asdict() | {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}
    scores, reason = _correlated(evidence.token_means, evidence.score.activations)
    row |= {"token_mean": scores.get("pearson"), "token_mean_spearman": scores.get("spearman")}
    row["reason"] = f"token_mean: {reason}" if reason else None
    return row


Run = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


def interpret(
    chosen: Sequence[Chosen], evidence: Sequence[Evidence], texts: Sequence[str], model: str, ask: Ask, run: Run
) -> list[dict[str, Any]]:
    """Explain each feature and score the explanation, by itself and with another feature's as a control.

    Args:
        chosen: the features; the control takes the explanation of the next one of the same fate, of the last the first's.
        evidence: of each.
        texts: of each token of the vocabulary (`vocabulary.token_texts`).
        model: name for the rows.
        ask: `Endpoint.ask` or `Estimate.ask`.
        run: calls a function for each of some items, `Endpoint.map` or one after another.

    Returns:
        A row of schema `INTERPRETATIONS` for each feature. A score that is missing is None and has its reason. A question that several
        features ask is charged to the first: the costs of all rows add up to what the endpoint billed.

    Raises:
        InputError: none of the first `HOPELESS` explanations, or simulations, can be read.
    """
    questions = _Questions(len(chosen), model, ask)

    def explain(i: int) -> Answer:
        return _explain(evidence[i], texts, questions.by(i, "explanations"))

    explained = run(explain, range(len(chosen)))
    others = _of_another(chosen, explained)

    def score(i: int) -> dict[str, Any]:
        row = baseline(chosen[i], evidence[i]) | {"model_used": model, "explanation": explained[i].value}
        reasons = [row["reason"]] if row["reason"] else []

        def add(name: str, scores: dict[str, Any], reason: str | None) -> None:
            row.update(scores)
            reasons.extend([f"{name}: {reason}"] if reason else [])

        if explained[i].value is None:
            reasons.append(f"explanation: {explained[i].reason}")
        else:
            simulate = questions.by(i, "simulations")
            found, reason = _simulate(explained[i].value, evidence[i].score, texts, simulate)
            scores = {"simulation": found.get("pearson"), "simulation_spearman": found.get("spearman")}
            add("simulation", scores, reason)
            add("detection", *_detect(explained[i].value, evidence[i], texts, questions.by(i, None)))
            if i in others:
                found, reason = _simulate(others[i], evidence[i].score, texts, simulate)
                add("shuffled", {"shuffled": found.get("pearson")}, reason)
            else:
                reasons.append("shuffled: no other feature of this fate has an explanation")
        return row | {"reason": "; ".join(reasons) or None}

    rows = run(score, range(len(chosen)))
    return [row | billed for row, billed in zip(rows, questions.billed(), strict=True)]


def _explain(evidence: Evidence, texts: Sequence[str], ask: Ask) -> Answer:
    """A feature's explanation, if its excerpts show it active on both sides: otherwise there is nothing to pay for."""
    for what, excerpts in (("explained", evidence.explain), ("scored", evidence.score)):
        if not active(excerpts, evidence.maximum).any():
            return Answer(None, f"{NEVER_ACTIVE} {what}", 0, 0, 0.0)
    return ask(explain_prompt(evidence, texts), read_explanation, "x" * 150)


def _of_another(chosen: Sequence[Chosen], explained: Sequence[Answer]) -> dict[int, str]:
    """The control's explanation by place of the feature: that of the next one of the same fate, the first's for the last."""
    others: dict[int, str] = {}
    for fate in {one.fate for one in chosen}:
        same = [i for i, one in enumerate(chosen) if one.fate == fate and explained[i].value is not None]
        if len(same) > 1:
            others |= {i: explained[other].value for i, other in zip(same, [*same[1:], same[0]], strict=True)}
    return others


class _Questions:
    """What is asked of a language model for some features, and what it cost.

    Args:
        count: of the features.
        model: name of the language model.
        ask: `Endpoint.ask` or `Estimate.ask`.
    """

    def __init__(self, count: int, model: str, ask: Ask) -> None:
        self._ask = ask
        self._answers: list[dict[int, Answer]] = [{} for _ in range(count)]
        self._kinds = {name: _Kind(name, model) for name in ("explanations", "simulations")}

    def by(self, i: int, kind: str | None) -> Ask:
        """Asks for one feature, counting the answers as of a kind."""

        def asked(prompt: Prompt, parse: Callable[[Reply], Any], guess: Any) -> Answer:
            answer = self._answers[i][hash(prompt)] = self._ask(prompt, parse, guess)
            if kind:
                self._kinds[kind].count(answer)
            return answer

        return asked

    def billed(self) -> list[dict[str, Any]]:
        """Columns of the bill for each feature; a question that several asked is charged to the first."""
        bills, seen = [], set()
        for asked in self._answers:
            answers = [answer for question, answer in asked.items() if question not in seen]
            seen |= asked.keys()
            bills.append(
                {
                    "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
                    "completion_tokens": sum(answer.completion_tokens for answer in answers),
                    "cost_usd": sum(answer.usd for answer in answers),
                }
            )
        return bills


class _Kind:
    """Questions of one kind: the job ends when so many replies could not be read, and none could, that the rest would be paid in vain."""

    def __init__(self, name: str, model: str) -> None:
        self.name, self.model, self.failed, self.read = name, model, 0, False

    def count(self, answer: Answer) -> None:
        if answer.value is not None:
            self.read = True
        elif answer.reason != BUDGET_SPENT:
            self.failed += 1
            if not self.read and self.failed >= HOPELESS:
                raise InputError(
                    f"interpretation.model: {self.failed} {self.name} by {self.model!r} were asked for and none could be read (last: "
                    f"{answer.reason}), so no more are asked for; name another model. What was paid is kept"
                )


def _simulate(
    explanation: str, excerpts: Excerpts, texts: Sequence[str], ask: Ask
) -> tuple[dict[str, float], str | None]:
    simulated = []
    for first in range(0, len(excerpts.tokens), SIMULATED):
        part = excerpts.tokens[first : first + SIMULATED]
        pieces = [one.stop - one.first for row in _shown(part, texts) for one in row]
        prompt = simulate_prompt(explanation, part, texts)
        answer = ask(prompt, partial(read_simulation, count=len(pieces)), np.zeros(len(pieces)))
        if answer.value is None:
            return {}, answer.reason
        simulated.append(np.repeat(answer.value, pieces))
    return _correlated(np.concatenate(simulated), excerpts.activations.ravel())


def _detect(
    explanation: str, evidence: Evidence, texts: Sequence[str], ask: Ask
) -> tuple[dict[str, float], str | None]:
    tokens, is_active = evidence.score.tokens, active(evidence.score, evidence.maximum)
    chosen = [np.flatnonzero(is_active == kind) for kind in (True, False)]
    if not all(map(len, chosen)):
        return {}, f"the feature is active in {'all' if is_active.any() else 'none'} of the excerpts"
    # Excerpts are in the order of the sample: evenly spaced ones favour no activation.
    spaced = [rows[np.unique(np.linspace(0, len(rows) - 1, SNIPPETS).round().astype(int))] for rows in chosen]
    rows = np.sort(np.concatenate(spaced))
    prompt = detect_prompt(explanation, tokens[rows], texts)
    answer = ask(prompt, partial(read_detection, count=len(rows)), np.zeros(len(rows), bool))
    if answer.value is None:
        return {}, answer.reason
    return {"detection": balanced_accuracy(answer.value, is_active[rows])}, None


def interpret_features(
    chosen: Sequence[Chosen], evidence: Sequence[Evidence], texts: Sequence[str], endpoint: Endpoint | None
) -> list[dict[str, Any]]:
    """A row of schema `INTERPRETATIONS` for each feature.

    Args:
        chosen: the features.
        evidence: of each.
        texts: of each token of the vocabulary (`vocabulary.token_texts`).
        endpoint: of a language model that explains them (`interpret`), once it is sure that the budget is enough; without one, the
            scores are those of the token-statistics baseline alone.

    Raises:
        InputError: the estimate exceeds the budget (nothing is sent); the endpoint refuses, does not answer or overruns the budget; no
            feature has a score, and not because the budget ended.
    """
    if endpoint is None:
        return list(map(baseline, chosen, evidence))
    estimate = Estimate(endpoint)
    service, ledger = endpoint.service, endpoint.ledger
    interpret(chosen, evidence, texts, service.model, estimate.ask, lambda function, items: list(map(function, items)))
    estimate.check()
    rows = interpret(chosen, evidence, texts, service.model, endpoint.ask, endpoint.map)
    tried = [row for row in rows if NEVER_ACTIVE not in (row["reason"] or "") and row["token_mean"] is not None]
    unscored = [row for row in tried if row["simulation"] is None]
    logger.info(
        "%s: USD %.4f for %d features, %d of them without a simulation score; USD %.4f in the ledger with what may have been billed",
        service.model, sum(row["cost_usd"] for row in rows), len(rows), sum(row["simulation"] is None for row in rows), ledger.spent,
    )  # fmt: skip
    if note := budget_note(pd.DataFrame(rows, columns=INTERPRETATIONS.names)):
        logger.warning("%s; raise it: what was paid is kept", note)
    elif tried and len(unscored) == len(tried):
        raise InputError(
            f"{service.base_url}: none of the {len(tried)} features could be scored with model {service.model!r} (last: "
            f"{unscored[-1]['reason']}); check interpretation.model, or try again later. What was paid is kept in {ledger.path}"
        )
    elif unscored:
        logger.warning(
            "%d of %d features have no simulation score; the first: %s",
            len(unscored),
            len(tried),
            unscored[0]["reason"],
        )
    return rows
