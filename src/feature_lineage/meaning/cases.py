"""Cases (paper, section 4.2 and appendix D): the feature that a hypothesis about tokens describes, followed down the lineage.

A hypothesis is a set of tokens s. The log-likelihood ratio of a feature is log(P(s | feature) / P(s)), with P(s | feature) the share of
the feature's activation that lies on tokens of s, its precision, and P(s) their share of the sample. For one hypothesis the ratio thus
grows with the precision, and a feature that fires on one occurrence alone has the highest of both: 1 and -log P(s). So recall, the share
of the occurrences on which the feature fires, must enter: features are ordered by van Rijsbergen's F with β = ½, in which
precision weighs twice as much as recall.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from feature_lineage.errors import InputError
from feature_lineage.meaning.contexts import CONTEXTS, highlighted, leading
from feature_lineage.meaning.tracking import Columns, Node, Sample, follow, living, measure, survey, traced
from feature_lineage.progress import logger
from feature_lineage.store.formats import read_provenance, read_range, read_table, read_tensors
from feature_lineage.text.sample import kept_tokens
from feature_lineage.text.vocabulary import token_texts, window_texts

COVERED = 0.9  # share of its mass on the tokens that a feature's own hypothesis names
TOKENS = 10  # that it names at most
SHOWN = 5  # contexts and tokens shown of each feature, and candidates

TRACKING = pa.schema(
    [
        ("case", pa.string()),
        ("model", pa.string()),
        ("seed", pa.int64()),
        ("feature", pa.int32()),
        ("parent", pa.string()),
        ("kept", pa.bool_()),
        *((name, kind) for name, kind in (("r", pa.float64()), ("fate", pa.string()))),
        *(
            (name, kind)
            for name, kind in (("verdict", pa.string()), ("traced", pa.int32()), ("traced_r", pa.float64()))
        ),
        *((name, pa.float64()) for name in ("ratio", "precision", "recall", "score", "density")),
        ("top_tokens", pa.list_(pa.struct([("text", pa.string()), ("share", pa.float64())]))),
    ]
)
DEFINITIONS = {
    "precision": "Share of the feature's activation that lies on the hypothesis's tokens.",
    "ratio": "Log-likelihood ratio in nats: log(precision / share of the hypothesis's tokens in the sample). Its ceiling, at a "
    "precision of 1, is minus the log of that share. Null where the feature does not fire on them.",
    "recall": "Share of the occurrences of the hypothesis's tokens on which the feature fires.",
    "score": "F with β = ½ of precision and recall, 1.25 P R / (0.25 P + R): the feature with the highest is the case's.",
    "density": "Share of all tokens of the sample on which the feature fires.",
    "r": "Pearson correlation with the tracked feature of the parent, whose best match in this model the feature is.",
    "fate": "What becomes of the parent's tracked feature along the edge from the parent, by the paper's measure; null where the case starts.",
    "verdict": "What became of the case's first feature in this model, by what it does: kept, found again, drifted or lost.",
    "traced": "Number of the first feature in this model's dictionary: its own if it is kept, its match if it is found again. It may differ "
    "from the feature that is followed by correlation alone.",
    "traced_r": "Pearson correlation that the verdict rests on.",
    "kept": "Of two features that a merged model's parents lead to, the one that correlates better with its parent's is followed on.",
    "mean_correlation": "Mean Pearson correlation over all pairs of kept features of different models, on all tokens of the sample.",
    "shared": "The same windows under every feature: the one on which each kept feature is highest.",
}

# What a class of characters is, for the characters of a token that are no space.
CHARACTERS: dict[str, Callable[[str], bool]] = {
    "digits": str.isdigit,
    "letters": str.isalpha,
    "lowercase": lambda text: text.isalpha() and text.islower(),
    "uppercase": lambda text: text.isalpha() and text.isupper(),
    "punctuation": lambda text: bool(text) and not re.search(r"\w|\ufffd", text),
    "whitespace": lambda text: not text,
}


class Model(NamedTuple):
    """A model's features: its activations and its top contexts."""

    activations: str | Path
    contexts: str | Path


class Fates(NamedTuple):
    """Fates along each edge, `flows/features.parquet`, and of every feature of every model its density and what became of it in each
    descendant (`traced`), `flows/lineages.parquet`."""

    features: pa.Table
    lineages: pa.Table


# --- hypotheses --------------------------------------------------------------------------------------------


def matching_tokens(name: str, case: Mapping[str, Any], sample: Sample, inside: np.ndarray) -> np.ndarray:
    """Tokens of the sample that a case's hypothesis names, int [tokens].

    Args:
        name: of the case.
        case: has `tokens` (texts), `pattern` (matches a token's whole text) or `characters` (a key of `CHARACTERS`).
        sample: tokens and vocabulary.
        inside: windows that count, bool [windows].

    Raises:
        InputError: none of the sample's tokens is one; names some that are alike.
    """
    present = np.unique(sample.tokens[inside])
    present = present[~sample.special[present]]
    texts = [sample.texts[token] for token in present]
    if "tokens" in case:
        hit = [text in case["tokens"] for text in texts]
        for missing in [text for text in case["tokens"] if text not in texts]:
            logger.warning("case %s: the sample has no token %r", name, missing)
        alike = [near for text in case["tokens"] for near in _alike(text, texts)]
    elif "pattern" in case:
        hit = [re.fullmatch(case["pattern"], text) is not None for text in texts]
        alike = [text for text in texts if re.search(case["pattern"], text)]
    else:
        hit = [CHARACTERS[case["characters"]](text.strip()) for text in texts]
        alike = []
    if not any(hit):
        near = ", ".join(map(repr, dict.fromkeys(alike[:10]))) or "none"
        raise InputError(
            f"cases.{name}: no token of the sample is {_hypothesis(case)}; alike are: {near}. Spaces count; name tokens as the "
            "tokenizer has them, or give a pattern"
        )
    return present[hit]


def _alike(text: str, texts: Sequence[str]) -> list[str]:
    near = difflib.get_close_matches(text, texts, n=5, cutoff=0.6)
    core = text.strip().lower()
    return (
        near + [other for other in texts if core and (core in other.lower() or other.strip().lower() == core[:3])][:5]
    )


def _hypothesis(case: Mapping[str, Any]) -> str:
    """A case's hypothesis in words."""
    if "tokens" in case:
        return " or ".join(json.dumps(text, ensure_ascii=False) for text in case["tokens"])
    if "pattern" in case:
        return f"a token that matches {case['pattern']}"
    if "characters" in case:
        return f"a token of {case['characters']}"
    return f"one of the tokens with {COVERED:.0%} of the activation of feature {case['feature']}, at most {TOKENS}"


def feature_hypothesis(masses: np.ndarray) -> np.ndarray:
    """The fewest tokens with at least `COVERED` of a feature's mass, `TOKENS` at most, by falling mass; int [tokens].

    Args:
        masses: the feature's mass on each token, float64 [vocabulary], not all 0.
    """
    order, _ = leading(np.zeros(len(masses)), masses, np.arange(len(masses)), TOKENS)
    enough = np.searchsorted(np.cumsum(masses[order]), COVERED * masses.sum() * (1 - 1e-12))
    return order[: min(int(enough) + 1, np.count_nonzero(masses[order]))]


# --- a case ------------------------------------------------------------------------------------------------


def find_case(
    name: str,
    case: Mapping[str, Any],
    sample: Sample,
    models: Mapping[str, Model],
    flow: Fates,
    edges: Sequence[tuple[str, str]],
    seed: int,
) -> tuple[dict[str, Any], pa.Table]:
    """Find a case's feature, or the hypothesis of the feature that it names, and follow it down the lineage.

    Args:
        name: of the case.
        case: its block of the configuration: one of `tokens`, `pattern`, `characters`, `feature`, and perhaps `corpora`, to which P(s),
            ratio, precision, recall and top tokens are then restricted.
        sample: tokens and vocabulary.
        models: the model to start from, then its descendants in order.
        flow: of the whole lineage.
        edges: all (parent, child) pairs, parents before children.
        seed: autoencoder seed.

    Returns:
        The case as JSON can hold it, and a table of schema `TRACKING` with a row for each node.

    Raises:
        InputError: the hypothesis matches no token of the sample, no living feature fires on it, or there is no such feature.
    """
    start = next(iter(models))
    corpora = case.get("corpora") or sample.corpora
    inside = np.isin(sample.corpus, [number for number, corpus in enumerate(sample.corpora) if corpus in corpora])
    alive = living(flow.lineages, start, seed)
    feature, hypothesis, candidates = _start(name, case, sample, models[start], alive, inside)
    nodes = follow(flow.features, [edge for edge in edges if edge[1] in models], start, feature, seed)
    contexts = [_contexts(models[node.model].contexts, node.feature) for node in nodes]
    shared = list(dict.fromkeys(found[0]["window"] for node, found in zip(nodes, contexts, strict=True) if node.kept))
    columns = [(models[node.model].activations, node.feature) for node in nodes]
    measured = measure(columns, sample, hypothesis, inside, shared)
    meant = np.isin(sample.read(inside), hypothesis)
    prior = float(meant.mean())
    densities = [living(flow.lineages, node.model, seed)[node.feature] for node in nodes]
    became = traced(flow.lineages, start, feature, seed)
    rows = _rows(nodes, measured, prior, densities, contexts, sample, became)
    content = {
        "case": name,
        "hypothesis": _hypothesis(case),
        "tokens": [sample.texts[token] for token in hypothesis],
        "model": start,
        "seed": seed,
        "corpora": list(corpora),
        "occurrences": int(meant.sum()),
        "share": prior,
        "ceiling": -math.log(prior),
        **_agreement(nodes, measured.correlations),
        "candidates": candidates,
        "traced": list(became.values()),
        "nodes": rows,
        "shared": [_shared(sample, window, measured.shown[:, number]) for number, window in enumerate(shared)],
        "definitions": DEFINITIONS,
    }
    return content, pa.Table.from_pylist([{**row, "case": name, "seed": seed} for row in rows], TRACKING)


def _became(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """What became of a case's first feature in one model, as a row of it has it."""
    found = found or dict.fromkeys(("verdict", "feature", "r"))
    return {"verdict": found["verdict"], "traced": found["feature"], "traced_r": found["r"]}


def _start(
    name: str,
    case: Mapping[str, Any],
    sample: Sample,
    model: Model,
    alive: Mapping[int, float],
    inside: np.ndarray,
) -> tuple[int, np.ndarray, list[dict[str, Any]]]:
    """The feature that a case starts from, the tokens of its hypothesis, and the features that fit these best."""
    everything = read_provenance(model.activations)["features"]
    if "feature" in case:
        feature = case["feature"]
        if feature not in alive:
            found = "never fires in the sample" if feature < everything else f"is none of the {everything:,} features"
            raise InputError(f"cases.{name}.feature: {feature} {found}; name another")
        columns = [(model.activations, feature)]
        masses = measure(columns, sample, None, inside, ()).masses[0]
        if not masses.any():
            raise InputError(f"cases.{name}.corpora: feature {feature} never fires in them; name others")
        hypothesis = feature_hypothesis(masses)
    else:
        hypothesis = matching_tokens(name, case, sample, inside)
    found = survey(model.activations, sample, hypothesis, inside)
    score = np.zeros(everything)
    score[list(alive)] = found.score[list(alive)]
    best, _ = leading(np.zeros(everything), score, np.arange(everything), SHOWN)
    if "feature" not in case:
        feature = int(best[0])
        if not score[feature]:
            raise InputError(f"cases.{name}: no feature fires on {_hypothesis(case)}; name other tokens")
    candidates = [
        {"feature": int(other), **{key: float(values[other]) for key, values in found._asdict().items()}}
        for other in best
    ]
    return feature, hypothesis, candidates


def _shown(row: Mapping[str, Any], sample: Sample) -> dict[str, Any]:
    """A row of `CONTEXTS` with its corpus and text."""
    window = row["window"]
    text = highlighted(sample.tokens[window], row["position"], row["activation"], sample.texts)
    return {"corpus": sample.corpora[sample.corpus[window]], **text}


def _shared(sample: Sample, window: int, activations: np.ndarray) -> dict[str, Any]:
    """A window as it is shown under several features, with their activations [features, length]: see `contexts.highlighted`."""
    shown = window_texts(sample.tokens[window].tolist(), sample.texts)
    return {
        "corpus": sample.corpora[sample.corpus[window]],
        "tokens": [one.text for one in shown],
        "activations": [[float(row[one.first : one.stop].max()) for one in shown] for row in activations],
    }


def _contexts(path: str | Path, feature: int) -> list[dict[str, Any]]:
    """The first contexts of a feature."""
    columns = [name for name in CONTEXTS.names if name != "peak"]
    return read_range(path, columns, feature, feature + 1).slice(0, SHOWN).to_pylist()


def _rows(
    nodes: Sequence[Node],
    measured: Columns,
    prior: float,
    densities: Sequence[float],
    contexts: Sequence[Sequence[Mapping[str, Any]]],
    sample: Sample,
    became: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """What a case says of each node; `prior` is the share P(s) of the hypothesis's tokens, `contexts` are rows of `CONTEXTS`, `became` is
    what became of the first feature (`tracking.traced`)."""
    precision = measured.support.precision
    return [
        {
            **node._asdict(),
            "ratio": math.log(precision[place] / prior) if precision[place] else None,
            **{key: float(values[place]) for key, values in measured.support._asdict().items()},
            "density": densities[place],
            **_became(became.get(node.model)),
            "top_tokens": _top_tokens(measured.masses[place], sample.texts),
            "contexts": [_shown(row, sample) for row in contexts[place]],
        }
        for place, node in enumerate(nodes)
    ]


def _agreement(nodes: Sequence[Node], correlations: np.ndarray) -> dict[str, Any]:
    """Correlations of all pairs of kept features, None where one does not vary, and their mean, None if one of them is."""
    kept = list(combinations([place for place, node in enumerate(nodes) if node.kept], 2))
    r = [float(correlations[pair]) for pair in kept]
    return {
        "mean_correlation": float(np.mean(r)) if r and np.isfinite(r).all() else None,
        "correlations": [
            {"a": nodes[a].model, "b": nodes[b].model, "r": value if math.isfinite(value) else None}
            for (a, b), value in zip(kept, r, strict=True)
        ],
    }


def _top_tokens(masses: np.ndarray, texts: Sequence[str]) -> list[dict[str, Any]]:
    order, _ = leading(np.zeros(len(masses)), masses, np.arange(len(masses)), SHOWN)
    total = masses.sum()
    return [{"text": texts[token], "share": float(masses[token] / total)} for token in order if masses[token]]


def read_sample(path: str | Path, tokenizer: str | Path, corpora: Sequence[str]) -> Sample:
    """Read the sample and the vocabulary.

    Args:
        path: file of `sample.sample_windows`.
        tokenizer: its `tokenizer.json`.
        corpora: names of the sample's corpora, in its order.
    """
    tensors = read_tensors(path)
    return Sample(tensors["tokens"], tensors["corpus"], corpora, *token_texts(tokenizer), kept_tokens(tensors))


def read_fates(features: str | Path, lineages: str | Path) -> Fates:
    """Read the columns that a case needs of `flows/features.parquet` and `flows/lineages.parquet`."""
    columns = ["parent", "child", "seed", "model", "feature", "fate", "descendant", "r"]
    return Fates(read_table(features, columns), read_table(lineages, ["model", "seed", "feature", "density", "traced"]))
