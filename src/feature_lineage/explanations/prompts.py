"""Prompts, and what is read of their replies."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from string import Template

import numpy as np

from feature_lineage.explanations.excerpts import Evidence, Excerpts
from feature_lineage.explanations.questions import Malformed, Prompt, Reply
from feature_lineage.text.vocabulary import Shown, window_texts

LEVELS = 10
EXPLANATION_TOKENS = 120
LONGEST_EXPLANATION = 4000  # characters; what is longer was not asked for


def quantised(activations: np.ndarray, maximum: float) -> np.ndarray:
    """Activations as whole numbers from 0 to 10, int64: min(10, ⌊10 relu(a) / maximum⌋) (Bills et al. 2023)."""
    share = np.maximum(activations, 0) / maximum if maximum > 0 else np.zeros(np.shape(activations))
    return np.minimum(LEVELS, np.floor(LEVELS * share)).astype(np.int64)


def active(excerpts: Excerpts, maximum: float) -> np.ndarray:
    """Whether a feature is active in each excerpt, bool [excerpts], as prompts show it: at a token or more its activation is not 0 there."""
    return quantised(excerpts.activations, maximum).max(1, initial=0) > 0


def written(token: str) -> str:
    """A token as it stands in a prompt: one line, control characters escaped."""
    return json.dumps(token, ensure_ascii=False)[1:-1].replace('\\"', '"')


def _shown(tokens: np.ndarray, texts: Sequence[str]) -> list[list[Shown]]:
    """The lines of prompts for excerpts, int [excerpts, width]: a token each, pieces of one character together."""
    windows = (window_texts(row.tolist(), texts) for row in tokens)
    return [[one._replace(text=written(one.text)) for one in window] for window in windows]


@cache
def _template(name: str) -> tuple[str, Template]:
    text = Path(__file__).with_name("prompts_files").joinpath(f"interpretation_{name}.txt").read_text(encoding="utf-8")
    system, user = text.split("\n---\n")
    return system, Template(user.strip())


def explain_prompt(evidence: Evidence, texts: Sequence[str]) -> Prompt:
    """Ask for an explanation: the excerpts of the first side, the strongest first, with their quantised activations."""
    tokens, activations = evidence.explain
    levels, shown = quantised(activations, evidence.maximum), _shown(tokens, texts)
    parts = []
    for number, row in enumerate(np.argsort(-activations.max(1, initial=0), kind="stable"), 1):
        lines = [f"{one.text}\t{levels[row, one.first : one.stop].max()}" for one in shown[row]]
        parts.append("\n".join([f"Excerpt {number}:", *lines]))
    system, user = _template("explain")
    return Prompt(system, user.substitute(excerpts="\n\n".join(parts)), EXPLANATION_TOKENS, EXPLANATION_TOKENS // 3)


def _after_thoughts(text: str) -> int:
    """Where a text's answer begins: some endpoints leave a model's thoughts before it, `<think>` … `</think>`, the first sign or both."""
    begun = re.match(r"\s*<think(ing)?>", text)
    ended = re.search(
        r"</think(ing)?>" if begun else r"</think(ing)?>[ \t]*\n", text
    )  # in one line, it may be the answer's word
    return ended.end() if ended else len(text) if begun else 0


def read_explanation(reply: Reply) -> str:
    """The explanation, on one line."""
    text = " ".join(reply.text[_after_thoughts(reply.text) :].split())
    if not text:
        raise Malformed("an empty explanation")
    if len(text) > LONGEST_EXPLANATION:
        raise Malformed(f"an explanation of {len(text):,} characters, more than {LONGEST_EXPLANATION:,}")
    return text


def simulate_prompt(explanation: str, tokens: np.ndarray, texts: Sequence[str]) -> Prompt:
    """Ask for the activation at each token of some excerpts, int [excerpts, width], which are numbered through.

    Pieces of one character have one number.
    """
    shown = _shown(tokens, texts)
    asked = sum(map(len, shown))
    numbers = iter(range(1, asked + 1))
    parts = ["\n".join(f"{next(numbers)}\t{one.text}" for one in row) for row in shown]
    system, user = _template("simulate")
    text = user.substitute(explanation=explanation, excerpts="\n\n".join(parts))
    return Prompt(system, text, 64 + 10 * asked, 5 * asked, logprobs=True)


_LINE = re.compile(r"^[ ]*(\d{1,9})[\t :]+(\d+(?:\.\d+)?)[ \r]*$", re.MULTILINE)


def read_simulation(reply: Reply, count: int) -> np.ndarray:
    """The activation at each of `count` tokens, float64 from 0 to 10.

    Where the reply's log-probabilities show what other whole numbers might have stood in a number's place, their expected value over
    those from 0 to 10; otherwise the number itself.

    Raises:
        Malformed: a line is missing, double or more than a number, or a number is out of range.
    """
    first = _after_thoughts(reply.text)
    lines = list(_LINE.finditer(reply.text, first))
    other = len(
        [line for line in reply.text[first:].splitlines() if line.strip() and not line.strip().startswith("```")]
    )
    numbers = [int(line[1]) for line in lines]
    if other != len(lines) or sorted(numbers) != list(range(1, count + 1)):
        raise Malformed(f"{len(set(numbers))} numbered lines of {other}, not the {count} asked for")
    starts = {}
    at = 0
    for token, alternatives in reply.tokens:
        # Where the number begins: some tokens bring the tab or blank before it along.
        starts[at + len(token) - len(token.lstrip())] = (token.strip(), alternatives)
        at += len(token)
    values = np.zeros(count)
    for line in lines:
        value = float(line[2])
        if value > LEVELS:
            raise Malformed(f"an activation of {line[2][:12]}, more than {LEVELS}")
        token, alternatives = starts.get(line.start(2), ("", {}))
        if token == line[2]:  # a number of several tokens has no log-probability of its own
            weights = {int(n): math.exp(min(p, 0.0)) for n, p in alternatives.items() if int(n) <= LEVELS}
            if (total := sum(weights.values())) > 0:
                value = sum(n * weight for n, weight in weights.items()) / total
        values[int(line[1]) - 1] = value
    return values


def detect_prompt(explanation: str, tokens: np.ndarray, texts: Sequence[str]) -> Prompt:
    """Ask which excerpts, int [excerpts, width], have activation."""
    lines = [f"{number}\t" + "".join(one.text for one in row) for number, row in enumerate(_shown(tokens, texts), 1)]
    system, user = _template("detect")
    text = user.substitute(explanation=explanation, snippets="\n".join(lines))
    return Prompt(system, text, 64 + 4 * len(tokens), 2 * len(tokens))


def read_detection(reply: Reply, count: int) -> np.ndarray:
    """Which of `count` excerpts are said to have activation, bool [count]."""
    found = re.search(r"\[[\d,\s]*\]", reply.text[_after_thoughts(reply.text) :])
    try:
        numbers = json.loads(found[0]) if found else None
    except ValueError:
        numbers = None
    if numbers is None or any(not 1 <= number <= count for number in numbers):
        raise Malformed(f"no JSON list of numbers from 1 to {count}")
    said = np.zeros(count, bool)
    said[np.asarray(numbers, np.int64) - 1] = True
    return said
