"""What a language model makes of features, and how well its explanations predict them (paper, appendix C; Bricken et al. 2023, Bills et al. 2023).

The windows of the sample are parted into two sides, documents kept together. Of a feature, excerpts are drawn from both sides in the same
way: those on one side are explained; on the other the explanation is held against the true activations. The side that is explained also
gives the baseline that needs no language model: at each token, the feature's mean activation on that token of the vocabulary.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import chain, zip_longest
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from feature_lineage.correlation import ActivationFile
from feature_lineage.endpoint import BUDGET_SPENT, Answer, Ask, Endpoint, Estimate, Malformed, Prompt, Reply
from feature_lineage.flow import SINGLE_TOKEN
from feature_lineage.logs import InputError, logger, progress
from feature_lineage.streams import Stream, entropy
from feature_lineage.vocabulary import Shown, window_texts

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
PERSISTING, OTHERS = "persisting", "not persisting"

# Excerpts of each side, after Bricken et al.: a feature's highest activations, two from each tenth of its range, random ones, and
# its strongest tokens elsewhere; a third of a paper's window each.
TOP, OF_BAND, BANDS, RANDOM, ELSEWHERE = 10, 2, 10, 5, 10
EXCERPT = 9  # tokens
LEVELS = 10
UNITS = 8  # a document with more than this fraction of its corpus's windows is cut

SIMULATED = 15  # excerpts in a request: longer lists make a language model lose count
SNIPPETS = 10  # with and without activation, in a detection request
EXPLANATION_TOKENS = 120
LONGEST_EXPLANATION = 4000  # characters; what is longer was not asked for
HOPELESS = 5  # questions of one kind without one readable reply, after which a language model is asked no more
COVERAGE = 0.5  # share of the features that could be scored, below which no comparison is called won or lost
NEVER_ACTIVE = "never active in the excerpts to be"
CONSTANT = "constant activations where it is scored"


# --- features and windows ----------------------------------------------------------------------------------


def mixed(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A random-looking uint64 for each number (splitmix64): draws by it stay when other numbers come or go."""
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class Chosen(NamedTuple):
    """A feature, its fate (`PERSISTING` or `OTHERS`) and whether it is a single-token feature (see `flow.strata`)."""

    feature: int
    fate: str
    single_token: bool


def choose(
    lineages: pa.Table, tokens: pa.Table, model: str, autoencoder: int, count: int | str, seed: int
) -> list[Chosen]:
    """Features to interpret, as many that persist as that do not, as far as there are; a budget that ends early ends for both alike.

    A feature persists if it does on any edge to a child of its model; in a model without children, if it persists from a parent. Dead
    features are left out. A larger `count` keeps those of a smaller one.

    Args:
        lineages: table of schema `flow.LINEAGES`.
        tokens: table of `feature_tokens.token_masses` of the model.
        model: the model.
        autoencoder: seed of its autoencoder.
        count: how many, or "all" that live.
        seed: of the draw.

    Returns:
        The features of each fate, in the order of the draw, one of each in turn.
    """
    found: dict[str, list[int]] = {PERSISTING: [], OTHERS: []}
    for batch in lineages.select(["model", "seed", "feature", "origin", "chain", "fates"]).to_batches():
        for row in batch.to_pylist():
            if (row["model"], row["seed"]) == (model, autoencoder) and row["origin"] is not None:
                below = [edge["fate"] == "persisting" for edge in row["fates"]]
                found[PERSISTING if any(below) or (not below and row["chain"]) else OTHERS].append(row["feature"])
    shares = np.nan_to_num(tokens["token_share"].to_numpy())
    chosen: list[list[Chosen]] = []
    for fate, features in found.items():
        order = np.asarray(features, np.int64)[np.argsort(mixed(np.asarray(features, np.int64), seed))]
        order = order if count == "all" else order[: int(count) // 2]
        chosen.append([Chosen(int(feature), fate, bool(shares[feature] >= SINGLE_TOKEN)) for feature in order])
    return [one for one in chain.from_iterable(zip_longest(*chosen)) if one]


def sides(corpus: np.ndarray, document: np.ndarray, seed: int) -> np.ndarray:
    """Part the windows of a sample in two halves, the documents of each corpus at random.

    Documents stay whole, unless one has more than an eighth of its corpus's windows, which is then cut. A window belongs to the document
    of its first token.

    Args:
        corpus: of each window, int [windows], ascending.
        document: of each token, int [windows, length].
        seed: of the draw.

    Returns:
        0 for windows to explain on, 1 for windows to score on; int8 [windows].
    """
    side = np.zeros(len(corpus), np.int8)
    for number in np.unique(corpus):
        windows = np.flatnonzero(corpus == number)
        longest = max(1, len(windows) // UNITS)
        first = document[windows, 0]
        place = np.arange(len(windows)) - np.searchsorted(
            first, first
        )  # windows of a corpus are in the order of its documents
        _, unit = np.unique(np.stack([first, place // longest]), axis=1, return_inverse=True)
        sizes = np.bincount(unit)
        taken = [0, 0]
        of_unit = np.zeros(len(sizes), np.int8)
        random = np.random.default_rng(entropy(seed, Stream.SIDES, int(number)))
        for one in random.permutation(len(sizes)):
            of_unit[one] = taken[1] < taken[0]
            taken[of_unit[one]] += sizes[one]
        side[windows] = of_unit[unit]
    return side


# --- excerpts ----------------------------------------------------------------------------------------------


class Excerpts(NamedTuple):
    """Pieces of windows of one side: `tokens` int [excerpts, width], a feature's `activations` float64 of the same shape."""

    tokens: np.ndarray
    activations: np.ndarray


class Evidence(NamedTuple):
    """What is known of a feature: its maximum, excerpts to explain and to score, and the baseline's prediction for the latter.

    `token_means` is float64 of the shape of `score.tokens`: the feature's mean activation on each token on the other side; where the
    token does not occur there, its mean on that side.
    """

    feature: int
    maximum: float
    explain: Excerpts
    score: Excerpts
    token_means: np.ndarray


def gather(
    path: str | Path,
    maxima: np.ndarray,
    features: Sequence[int],
    tokens: np.ndarray,
    side: np.ndarray,
    seed: int,
    label: str,
) -> list[Evidence]:
    """Draw excerpts of some features and read their activations, in two passes over the file; only what is drawn stays in memory.

    Args:
        path: activations, a file of `features.feature_batches`.
        maxima: each feature's highest activation, float64 [all features].
        features: those to draw for.
        tokens: the sample, int [windows, length].
        side: of each window (see `sides`).
        seed: of the draws; those of a feature depend on no other feature.
        label: name in the progress bar.

    Raises:
        InputError: the file is damaged or of another sample.
    """
    if not features:
        return []
    windows, length = tokens.shape
    width = min(EXCERPT, length)
    number = np.asarray(features, np.int64)
    with progress(2 * tokens.size, "tok", label) as bar:
        read = partial(_whole_windows, path, tokens.shape, number, bar)
        candidates = _candidates(read(), maxima[number], number, side, seed)
        place, window, start = _draw(candidates, number, tokens, side, width, seed)
        order = np.argsort(place * windows + window)
        place, window, start = place[order], window[order], start[order]
        key = place * windows + window
        text = tokens[window[:, None], start[:, None] + np.arange(width)]
        activations = np.zeros(text.shape)
        scored = side[window] == 1
        vocabulary = int(tokens.max()) + 1
        wanted = np.unique(place[scored, None] * vocabulary + text[scored])
        sums, total = np.zeros(len(wanted)), np.zeros(len(number))
        for at, position, who, activation in read():
            i = np.minimum(np.searchsorted(key, who * windows + at), len(key) - 1)
            hit = key[i] == who * windows + at
            i, offset = i[hit], position[hit] - start[i[hit]]
            inside = (offset >= 0) & (offset < width)
            activations[i[inside], offset[inside]] = activation[hit][inside]
            other = side[at] == 0
            total += np.bincount(who[other], activation[other], minlength=len(number))
            if len(wanted):
                sought = who[other] * vocabulary + tokens[at[other], position[other]]
                j = np.minimum(np.searchsorted(wanted, sought), len(wanted) - 1)
                same = wanted[j] == sought
                sums += np.bincount(j[same], activation[other][same], minlength=len(wanted))
    counts = np.bincount(tokens[side == 0].ravel(), minlength=vocabulary)
    seen = counts[wanted % vocabulary]
    average = total / max(1, counts.sum())
    means = np.where(seen > 0, sums / np.maximum(seen, 1), average[wanted // vocabulary])
    evidence = []
    bounds = np.searchsorted(place, np.arange(len(number) + 1))
    for one, feature in enumerate(features):
        rows = slice(*bounds[one : one + 2])
        parts = [Excerpts(text[rows][part], activations[rows][part]) for part in (~scored[rows], scored[rows])]
        predicted = means[np.searchsorted(wanted, one * vocabulary + parts[1].tokens)]
        evidence.append(Evidence(int(feature), float(maxima[feature]), *parts, predicted))
    return evidence


_Entries = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


def _whole_windows(path: str | Path, shape: tuple[int, int], features: np.ndarray, bar: Any) -> _Entries:
    """The activations of some features: windows, positions, places in `features` and activations, never half a window at a time."""
    file = ActivationFile(path)
    windows, length = shape
    if file.tokens != windows * length:
        raise InputError(f"{path}: has {file.tokens:,} tokens, the sample {windows * length:,}; run Snakemake again")
    places = np.full(file.features, -1)
    places[features] = np.arange(len(features))
    rest = [np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)]
    done = 0
    for token, feature, activation in file.pieces():
        place = places[feature]
        keep = place >= 0
        new = (token[keep].astype(np.int64), place[keep], activation[keep].astype(np.float64))
        rest = [np.concatenate(pair) for pair in zip(rest, new, strict=True)]
        cut = np.searchsorted(rest[0], int(token[-1]) // length * length)
        yield rest[0][:cut] // length, rest[0][:cut] % length, rest[1][:cut], rest[2][:cut]
        rest = [part[cut:] for part in rest]
        bar.update(int(token[-1]) - done)
        done = int(token[-1])
    yield rest[0] // length, rest[0] % length, rest[1], rest[2]
    bar.update(windows * length - done)


class _Candidates(NamedTuple):
    """Windows that excerpts may be taken from, ordered by group and rank; `position` is that of the highest activation."""

    group: np.ndarray
    rank: np.ndarray
    window: np.ndarray
    position: np.ndarray


def _group(place: np.ndarray | int, side: np.ndarray | int, band: np.ndarray | int) -> Any:
    """Band `BANDS` is that of the highest activations, whatever they are."""
    return (place * 2 + side) * (BANDS + 1) + band


def _candidates(
    entries: _Entries, maxima: np.ndarray, features: np.ndarray, side: np.ndarray, seed: int
) -> _Candidates:
    kept = _Candidates(*(np.zeros(0, kind) for kind in (np.int64, np.float64, np.int64, np.int64)))
    for window, position, place, activation in entries:
        order = np.lexsort((position, -activation, window, place))
        order = order[np.r_[True, (np.diff(window[order]) != 0) | (np.diff(place[order]) != 0)][: len(order)]]
        window, position, place, peak = window[order], position[order], place[order], activation[order]
        band = np.minimum(BANDS * peak / maxima[place], BANDS - 1).astype(np.int64)
        draw = mixed((features[place] << 32) + window, seed) / 2.0**64
        new = _Candidates(
            np.concatenate([_group(place, side[window], band), _group(place, side[window], BANDS)]),
            np.concatenate([draw, -peak]),
            np.tile(window, 2),
            np.tile(position, 2),
        )
        both = _Candidates(*(np.concatenate(pair) for pair in zip(kept, new, strict=True)))
        order = np.lexsort((both.window, both.rank, both.group))
        group = both.group[order]
        within = np.arange(len(group)) - np.searchsorted(group, group)
        # The highest may be among a band's: enough of it that two more are left.
        order = order[within < np.where(group % (BANDS + 1) == BANDS, TOP, TOP + OF_BAND)]
        kept = _Candidates(*(column[order] for column in both))
    return kept


def _draw(
    candidates: _Candidates, features: np.ndarray, tokens: np.ndarray, side: np.ndarray, width: int, seed: int
) -> np.ndarray:
    """Place of the feature, window and first position of each excerpt, int64 [3, excerpts]; no window twice for one feature."""
    length = tokens.shape[1]
    by_token = np.argsort(tokens, axis=None, kind="stable")
    ordered = tokens.ravel()[by_token]
    of_side = [np.flatnonzero(side == which) for which in (0, 1)]
    drawn: list[tuple[int, int, int]] = []
    for place, feature in enumerate(features.tolist()):
        for which, windows in enumerate(of_side):
            random = np.random.default_rng(entropy(seed, Stream.EXCERPTS, feature, which))
            chosen: dict[int, int] = {}
            for band in (BANDS, *reversed(range(BANDS))):
                group = _group(place, which, band)
                rows = slice(*np.searchsorted(candidates.group, [group, group + 1]))
                found = np.stack([candidates.window[rows], candidates.position[rows]], 1)
                _take(chosen, found, TOP if band == BANDS else OF_BAND)
                if band == BANDS:
                    strongest = np.unique(tokens[found[:, 0], found[:, 1]])
            spare = random.choice(windows, min(len(windows), RANDOM + len(chosen)), replace=False)
            _take(chosen, np.stack([spare, random.integers(length, size=len(spare))], 1), RANDOM)
            found = [by_token[slice(*np.searchsorted(ordered, [token, token + 1]))] for token in strongest]
            spare = np.concatenate([np.zeros(0, np.int64), *found])
            spare = random.choice(spare, min(len(spare), 8 * (ELSEWHERE + len(chosen))), replace=False)
            found = np.stack(np.divmod(spare, length), 1)
            _take(chosen, found[side[found[:, 0]] == which], ELSEWHERE)
            drawn += [(place, window, position) for window, position in chosen.items()]
    found = np.asarray(drawn, np.int64).reshape(-1, 3).T
    found[2] = np.clip(found[2] - width // 2, 0, length - width)
    return found


def _take(chosen: dict[int, int], pairs: np.ndarray, count: int) -> None:
    """Add the first `count` of some (window, position) whose window is new."""
    for window, position in pairs.tolist():
        if count and window not in chosen:
            chosen[window] = position
            count -= 1


# --- questions and replies ---------------------------------------------------------------------------------


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
    text = Path(__file__).with_name("prompts").joinpath(f"interpretation_{name}.txt").read_text(encoding="utf-8")
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


def read_explanation(reply: Reply) -> str:
    """The explanation, on one line."""
    text = " ".join(reply.text.split())
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
    lines = list(_LINE.finditer(reply.text))
    other = len([line for line in reply.text.splitlines() if line.strip() and not line.strip().startswith("```")])
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
    found = re.search(r"\[[\d,\s]*\]", reply.text)
    try:
        numbers = json.loads(found[0]) if found else None
    except ValueError:
        numbers = None
    if numbers is None or any(not 1 <= number <= count for number in numbers):
        raise Malformed(f"no JSON list of numbers from 1 to {count}")
    said = np.zeros(count, bool)
    said[np.asarray(numbers, np.int64) - 1] = True
    return said


# --- scores ------------------------------------------------------------------------------------------------


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


Run = Callable[[Callable[[Any], Any], Sequence[Any], str], list[Any]]


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
    charged: list[dict[int, Answer]] = [{} for _ in chosen]
    kinds = {"explanations": _Kind("explanations", model), "simulations": _Kind("simulations", model)}

    def asking(i: int, kind: str | None) -> Ask:
        def asked(prompt: Prompt, parse: Callable[[Reply], Any], guess: Any) -> Answer:
            answer = charged[i][hash(prompt)] = ask(prompt, parse, guess)
            if kind:
                kinds[kind].count(answer)
            return answer

        return asked

    def explain(i: int) -> Answer:
        one = evidence[i]
        for what, excerpts in (("explained", one.explain), ("scored", one.score)):
            if not active(excerpts, one.maximum).any():  # nothing to pay for
                return Answer(None, f"{NEVER_ACTIVE} {what}", 0, 0, 0.0)
        return asking(i, "explanations")(explain_prompt(one, texts), read_explanation, "x" * 150)

    explained = run(explain, range(len(chosen)), "explaining")
    others: dict[int, str] = {}
    for fate in {one.fate for one in chosen}:
        same = [i for i, one in enumerate(chosen) if one.fate == fate and explained[i].value is not None]
        if len(same) > 1:
            others |= {i: explained[other].value for i, other in zip(same, [*same[1:], same[0]], strict=True)}

    def score(i: int) -> dict[str, Any]:
        row = baseline(chosen[i], evidence[i]) | {"model_used": model, "explanation": explained[i].value}
        reasons = [row["reason"]] if row["reason"] else []

        def add(name: str, scores: dict[str, Any], reason: str | None) -> None:
            row.update(scores)
            reasons.extend([f"{name}: {reason}"] if reason else [])

        if explained[i].value is None:
            reasons.append(f"explanation: {explained[i].reason}")
        else:
            simulate = asking(i, "simulations")
            found, reason = _simulate(explained[i].value, evidence[i].score, texts, simulate)
            scores = {"simulation": found.get("pearson"), "simulation_spearman": found.get("spearman")}
            add("simulation", scores, reason)
            add("detection", *_detect(explained[i].value, evidence[i], texts, asking(i, None)))
            if i in others:
                found, reason = _simulate(others[i], evidence[i].score, texts, simulate)
                add("shuffled", {"shuffled": found.get("pearson")}, reason)
            else:
                reasons.append("shuffled: no other feature of this fate has an explanation")
        return row | {"reason": "; ".join(reasons) or None}

    rows = run(score, range(len(chosen)), "scoring")
    seen: set[int] = set()
    for row, asked in zip(rows, charged, strict=True):
        answers = [answer for question, answer in asked.items() if question not in seen]
        seen |= asked.keys()
        row |= {
            "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
            "completion_tokens": sum(answer.completion_tokens for answer in answers),
            "cost_usd": sum(answer.usd for answer in answers),
        }
    return rows


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


def ask_endpoint(
    chosen: Sequence[Chosen], evidence: Sequence[Evidence], texts: Sequence[str], endpoint: Endpoint
) -> list[dict[str, Any]]:
    """`interpret` through an endpoint, once it is sure that the budget is enough.

    Raises:
        InputError: the estimate exceeds the budget (nothing is sent); the endpoint refuses, does not answer or overruns the budget; no
            feature has a score, and not because the budget ended.
    """
    estimate = Estimate(endpoint)
    service, ledger = endpoint.service, endpoint.ledger
    interpret(
        chosen, evidence, texts, service.model, estimate.ask, lambda function, items, _: list(map(function, items))
    )
    estimate.check()
    rows = interpret(chosen, evidence, texts, service.model, endpoint.ask, endpoint.map)
    tried = [row for row in rows if NEVER_ACTIVE not in (row["reason"] or "") and row["token_mean"] is not None]
    unscored = [row for row in tried if row["simulation"] is None]
    logger.info(
        "%s: USD %.4f for %d features, %d of them without a simulation score; USD %.4f in the ledger with what may have been billed",
        service.model, sum(row["cost_usd"] for row in rows), len(rows), sum(row["simulation"] is None for row in rows), ledger.spent,
    )  # fmt: skip
    if note := budget_note(pd.DataFrame(rows, columns=INTERPRETATIONS.names)):
        logger.warning("%s; raise it and run Snakemake again: what was paid is kept", note)
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


def budget_note(table: pd.DataFrame) -> str | None:
    """What the end of the budget left out, in a phrase; None if it did not end.

    Args:
        table: rows of schema `INTERPRETATIONS`.
    """
    cut = table[table["reason"].fillna("").str.contains(BUDGET_SPENT, regex=False)]
    if cut.empty:
        return None
    by_fate = " and ".join(f"{(cut['fate'] == fate).sum():,} {fate}" for fate in (PERSISTING, OTHERS))
    return f"interpretation.budget_usd ended before {len(cut):,} of {len(table):,} features had all their scores ({by_fate})"


def families(lineages: pa.Table) -> dict[tuple[str, int, int], str]:
    """The lineage of each feature, by model, autoencoder seed and number: the feature in which its chain of ancestors begins.

    Features of one lineage are the same feature in several models; their scores are not independent of each other.

    Args:
        lineages: table of schema `flow.LINEAGES`.
    """
    found = {}
    for batch in lineages.select(["model", "seed", "feature", "chain"]).to_batches():
        for row in batch.to_pylist():
            first = row["chain"][-1] if row["chain"] else row
            found[row["model"], row["seed"], row["feature"]] = f"{first['model']}/{row['seed']}/{first['feature']}"
    return found


def verdict(table: pd.DataFrame) -> str:
    """In a few sentences, whether the explanations predict activations better than token statistics and other explanations do.

    Each comparison is of pairs, over the features that have both scores, and is called won or lost only if these are `COVERAGE` of those
    that could be scored. Its interval is that of a mean of clusters (Liang and Zeger 1986; Student's t with one less than their number):
    features of one lineage are one cluster, without `family` each is its own, which gives the paired t interval.

    Args:
        table: columns `fate`, `explanation`, `simulation`, `shuffled`, `token_mean`, `reason` and `model_used` of schema
            `INTERPRETATIONS`, of one model or of several; perhaps `family`, the lineage of each feature (`families`).
    """
    means = table["token_mean"].dropna()
    if table["model_used"].isna().all():
        if means.empty:
            return "No feature was scored."
        return (
            "No language model was asked. The scores are those of the token-statistics baseline, which predicts at each token the "
            f"feature's mean activation on that token: mean Pearson correlation {means.mean():.2f} over {len(means):,} features."
        )
    names = " and ".join(sorted(table["model_used"].dropna().unique()))
    sentences = [_compared(f"The explanations of {names}", "the token-statistics baseline", table, "token_mean")]
    if table["shuffled"].notna().any():
        sentences.append(_compared("They", "another feature's explanation", table, "shuffled"))
    scored = table["simulation"].notna()
    if "family" in table and table.loc[scored, "family"].duplicated().any():
        sentences.append(
            f"The {scored.sum():,} scored features belong to {table.loc[scored, 'family'].nunique():,} lineages; the intervals take "
            "lineages as independent of each other, not features."
        )
    if unscored := int((table["explanation"].notna() & ~scored).sum()):
        explained = table["explanation"].notna().sum()
        sentences.append(f"{unscored:,} of {explained:,} explained features have no score and are left out.")
    if constant := int((table["simulation"] == 0).sum()):
        sentences.append(f"{constant:,} of {scored.sum():,} simulations are the same at every token and count as 0.")
    counts = {fate: int((scored & (table["fate"] == fate)).sum()) for fate in (PERSISTING, OTHERS)}
    for fate, other in ((PERSISTING, OTHERS), (OTHERS, PERSISTING)):
        if counts[other] and not counts[fate] and (table["fate"] == fate).any():
            sentences.append(f"No {fate} feature has a score: persisting features cannot be compared with the others.")
    if note := budget_note(table):
        sentences.append(f"{note[0].upper()}{note[1:]}.")
    return " ".join(sentences)


def _compared(ours: str, control: str, table: pd.DataFrame, score: str) -> str:
    both = table["simulation"].notna() & table[score].notna()
    possible = int(table["token_mean"].notna().sum())
    simulation, other = table.loc[both, "simulation"], table.loc[both, score]
    difference = simulation - other
    few = f"{ours} could be scored beside {control} on too few features to compare them ({len(difference):,}"
    if len(difference) < 2 or np.ptp(difference) == 0:
        return f"{few})."
    if len(difference) < COVERAGE * possible:
        return f"{few} of {possible:,})."
    low, high = _interval(difference, table.loc[both, "family"] if "family" in table else None)
    verb = "beat" if low > 0 else "do worse than" if high < 0 else "do not beat"
    return (
        f"{ours} {verb} {control}: mean Pearson correlation {simulation.mean():.2f} against {other.mean():.2f} over the same "
        f"{len(difference):,} features, a difference of {difference.mean():+.2f} (95 % interval {low:+.2f} to {high:+.2f}); they are "
        f"better for {(difference > 0).mean():.0%} of the features."
    )


def _interval(values: pd.Series, cluster: pd.Series | None) -> tuple[float, float]:
    """95 % interval of the mean of values that are independent between clusters alone; without bounds if there is only one."""
    residual = values - values.mean()
    sums = residual if cluster is None else residual.groupby(cluster.to_numpy()).sum()
    if (count := len(sums)) < 2:
        return -math.inf, math.inf
    error = math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(values)
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return float(values.mean()) - reach, float(values.mean()) + reach
