"""Stability: three dictionaries of one model compared by loops, the halves of a sample, and what a single dictionary has not."""

import itertools
import warnings

import numpy as np
import pytest
from edge import CHILD, PARENT, TOKENS, cosine, document_of, make_edge, matched, pairwise
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from test_direction import rows
from test_feature_tokens import write_activations

from feature_lineage.features import activations as reader
from feature_lineage.features.activations import read_activations
from feature_lineage.flow import bootstrap
from feature_lineage.flow.correlation import correlate
from feature_lineage.flow.direction import Directions
from feature_lineage.flow.stability import (
    STABILITY,
    Dictionary,
    is_reproducible,
    judged_documents,
    margin,
    measure_stability,
    others,
)

THRESHOLD = 0.7
SEEDS = (3, 0, 7)
CORPUS = np.array([0] * 6 + [1] * 8 + [2])
JUDGED = judged_documents(document_of(), CORPUS)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Three dictionaries of one model: two of an edge's matrices and a near copy of one; dense, and as `measure_stability` takes them."""
    monkeypatch.setattr(bootstrap, "MARGIN", 2.0)  # every pair is a candidate on every half
    monkeypatch.setattr(reader, "BLOCK", 97)
    edge = make_edge(tmp_path)
    random = np.random.default_rng(8)
    near = edge.own[0] * np.exp(0.3 * random.standard_normal(edge.own[0].shape)) * (random.random(PARENT) < 0.7)
    dense = dict(zip(SEEDS, (*edge.own, near.astype(np.float32).astype(np.float64)), strict=True))
    dictionaries = {}
    for seed, matrix in dense.items():
        path = write_activations(tmp_path / f"seed{seed}.parquet", matrix)
        alive = (matrix > 0).sum(0) >= 10
        directions = Directions(*(rows(10 * seed + k, matrix.shape[1]) for k in (0, 1)))
        dictionaries[seed] = Dictionary(path, alive, directions)
    return dense, dictionaries


def correlations(dictionaries):
    return {
        pair: correlate(*(read_activations(dictionaries[seed].activations) for seed in pair), -1.0)
        for pair in itertools.combinations(dictionaries, 2)
    }


def same(found, expected):
    np.testing.assert_allclose(np.array(found, float), np.array(expected, float), atol=1e-9)


def test_each_features_best_in_each_other_dictionary(model):
    dense, dictionaries = model
    found = measure_stability(dictionaries, correlations(dictionaries), document_of(), JUDGED, THRESHOLD)
    assert found.features.schema == STABILITY
    inside = JUDGED[document_of()]
    assert 0 < inside.sum() < TOKENS
    frame = found.features.to_pandas()
    assert len(frame) == 2 * sum(matrix.shape[1] for matrix in dense.values())
    close = []
    for one, other in itertools.permutations(SEEDS, 2):
        a, b = dictionaries[one], dictionaries[other]
        part = frame[(frame["seed"] == one) & (frame["other"] == other)]
        assert list(part["feature"]) == list(range(dense[one].shape[1]))
        (best, r), _ = matched(dense[one], dense[other], a.alive, b.alive)
        same(part["r"], r)
        same(part["judged_r"], matched(dense[one][inside], dense[other][inside], a.alive, b.alive)[0][1])
        close += [
            cosine(a.directions.decoder[k], b.directions.decoder[best[k]]) for k in range(len(r)) if r[k] > THRESHOLD
        ]
    assert found.cosines["matched"] == len(close) > 10
    assert found.cosines["high"] == pytest.approx(np.quantile(close, 0.05), abs=1e-12)


def test_columns_of_one_seed_and_what_is_reproducible(model):
    dense, dictionaries = model
    found = measure_stability(dictionaries, correlations(dictionaries), document_of(), JUDGED, THRESHOLD)
    inside = JUDGED[document_of()]
    for seed in SEEDS:
        rest = [other for other in sorted(SEEDS) if other != seed]
        expected = [
            matched(dense[seed][inside], dense[o][inside], dictionaries[seed].alive, dictionaries[o].alive)[0][1]
            for o in rest
        ]
        count = dense[seed].shape[1]
        judged = others(found.features, seed, "judged_r", count)
        same(judged, np.transpose(expected))
        by_hand = [sum(column[k] > THRESHOLD for column in expected) >= len(rest) / 2 for k in range(count)]
        assert is_reproducible(judged, THRESHOLD).tolist() == by_hand
    assert 0 < sum(by_hand) < count


def test_cosines_of_each_pair_of_dictionaries(model):
    _, dictionaries = model
    found = measure_stability(dictionaries, correlations(dictionaries), document_of(), JUDGED, THRESHOLD).cosines[
        "pairs"
    ]
    assert [row["seeds"] for row in found] == [list(pair) for pair in itertools.combinations(SEEDS, 2)]
    for row in found:
        a, b = (dictionaries[seed].directions.decoder for seed in row["seeds"])
        table = np.array([[cosine(u, v) for v in b] for u in a])
        assert row["mean_max_cosine"] == pytest.approx((table.max(1).mean() + table.max(0).mean()) / 2, abs=1e-12)
        assert row["pw_mcc"] == pytest.approx(table[linear_sum_assignment(-table)].mean(), abs=1e-12)


def test_a_dictionary_of_its_own_kind_matches_itself(model):
    _, dictionaries = model
    twins = {0: dictionaries[3], 1: dictionaries[3]}
    found = measure_stability(twins, correlations(twins), document_of(), JUDGED, THRESHOLD)
    r = others(found.features, 0, "r", PARENT)[:, 0]
    changes = np.array([not np.isnan(value) for value in r])
    np.testing.assert_allclose(r[changes], 1, atol=1e-12)
    assert found.cosines["pairs"][0]["pw_mcc"] == pytest.approx(1, abs=1e-12)
    assert found.cosines["high"] == pytest.approx(1, abs=1e-12)


def test_one_dictionary_alone_has_no_stability(model):
    _, dictionaries = model
    found = measure_stability({3: dictionaries[3]}, {}, document_of(), JUDGED, THRESHOLD)
    assert found.features.equals(STABILITY.empty_table())
    assert found.cosines == {"pairs": [], "high": None, "matched": 0}
    assert others(found.features, 3, "r", PARENT).shape == (PARENT, 0)
    assert margin(np.ones(PARENT), np.zeros((PARENT, 0)), np.ones(PARENT, bool)) is None


def test_dictionaries_that_share_nothing(model):
    """No pair lives on both sides: every r is None, no cosine is high, nothing is reproducible."""
    _, dictionaries = model
    dead = {0: dictionaries[3], 1: dictionaries[0]._replace(alive=np.zeros(CHILD, bool))}
    found = measure_stability(dead, correlations(dead), document_of(), JUDGED, THRESHOLD)
    assert found.features["r"].null_count == found.features["judged_r"].null_count == PARENT + CHILD
    assert found.cosines["high"] is None and found.cosines["matched"] == 0
    assert not is_reproducible(others(found.features, 0, "judged_r", PARENT), THRESHOLD).any()


def test_all_documents_in_the_half_that_is_not_judged(model):
    _, dictionaries = model
    nothing = np.zeros(len(JUDGED), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure_stability(dictionaries, correlations(dictionaries), document_of(), nothing, THRESHOLD)
    assert found.features["judged_r"].null_count == found.features.num_rows
    assert found.features["r"].null_count < found.features.num_rows


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        ([[0.9]], True),
        ([[0.7]], False),
        ([[np.nan]], False),
        ([[0.9, 0.1]], True),
        ([[0.9, np.nan, 0.1]], False),
        ([[0.9, 0.71, np.nan]], True),
    ],
)
def test_half_of_the_other_dictionaries_must_have_it(judged, expected):
    assert is_reproducible(np.array(judged), THRESHOLD).tolist() == [expected]


def test_the_margin_is_a_median_over_the_living():
    r = np.array([0.9, np.nan, 0.5, 0.2, 1.0])
    other = np.array([[0.7, 0.9], [0.4, np.nan], [0.5, 0.5], [np.nan, np.nan], [0.0, 0.0]])
    alive = np.array([True, True, True, True, False])
    assert margin(r, other, alive) == pytest.approx(np.median([0.9 - 0.8, 0 - 0.2, 0, 0.2]))
    assert margin(r, other, ~alive) == 1
    assert margin(r, other, np.zeros(5, bool)) is None


# --- halves ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), min_size=1, max_size=30))
def test_halves_of_a_corpus_differ_by_no_more_than_its_longest_document(documents):
    documents.sort(key=lambda one: one[0])
    corpus, size = (np.array(column) for column in zip(*documents, strict=True))
    judged = judged_documents(np.repeat(np.arange(len(size)), size), corpus)
    assert judged.dtype == bool and judged.shape == corpus.shape
    for number in np.unique(corpus):
        here = corpus == number
        assert abs(int(size[here & judged].sum()) - int(size[here & ~judged].sum())) <= size[here].max()
        if here.sum() > 1:
            assert 0 < judged[here].sum() < here.sum()
        else:
            assert judged[here].all()


def test_halves_by_hand():
    """9 tokens to the judged, 5 and 4 to the others; at 9 each the next 4 to the judged, 1 to the others. Alone, a document is judged."""
    document = np.repeat([0, 1, 2, 3, 4, 5], [4, 9, 5, 1, 4, 2])
    judged = judged_documents(document, np.array([0, 0, 0, 0, 0, 1]))
    assert judged.tolist() == [False, True, False, False, True, True]


def test_pairs_that_no_half_could_match_are_no_candidates(model, monkeypatch):
    """What `bootstrap.MARGIN` leaves out is further from the threshold than that, unless it is a feature's best."""
    dense, dictionaries = model
    pair = {seed: dictionaries[seed] for seed in (3, 7)}
    tables = correlations(pair)
    every = measure_stability(pair, tables, document_of(), JUDGED, THRESHOLD).features["judged_r"].to_numpy()
    monkeypatch.setattr(bootstrap, "MARGIN", 0.2)
    near = measure_stability(pair, tables, document_of(), JUDGED, THRESHOLD).features["judged_r"].to_numpy()
    r = pairwise(dense[3], dense[7])
    assert (near[~np.isnan(near)] <= every[~np.isnan(near)] + 1e-12).all()
    assert ((near > THRESHOLD) == (every > THRESHOLD)).all() and np.nanmax(r) > THRESHOLD
