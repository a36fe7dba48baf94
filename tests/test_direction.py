"""Directions: cosines and the best assignment against loops over every pair and every permutation."""

import itertools

import numpy as np
import pytest
from autoencoders import random_autoencoder
from edge import cosine

from feature_lineage.autoencoders.autoencoder import save_autoencoder
from feature_lineage.flow import direction as module
from feature_lineage.flow.direction import best_cosines, pair_cosines, pw_mcc, read_directions


def rows(seed, features, elements=5, zeros=()):
    """Unit rows, some of them zero."""
    found = np.random.default_rng(seed).standard_normal((features, elements))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    found[list(zeros)] = 0
    return found


def test_directions_are_the_dictionarys_vectors_at_unit_norm(tmp_path):
    autoencoder = random_autoencoder()
    autoencoder.W_enc[:, 3] = 0
    autoencoder.W_dec[5] = 0
    autoencoder.W_dec[6] *= 7
    save_autoencoder(autoencoder, tmp_path, "blocks.0.hook_mlp_out", 8, {})
    found = read_directions(tmp_path / "sae_weights.safetensors")
    for unit, vectors, zero in ((found.decoder, autoencoder.W_dec, 5), (found.encoder, autoencoder.W_enc.T, 3)):
        assert unit.dtype == np.float64 and unit.shape == (48, 24)
        assert not unit[zero].any()
        for feature, vector in enumerate(vectors.double().numpy()):
            if feature != zero:
                np.testing.assert_allclose(unit[feature], vector / np.sqrt((vector**2).sum()), atol=1e-12)


def test_a_pairs_cosine():
    a, b = rows(0, 6, zeros=[4]), rows(1, 9)
    match = np.array([3, -1, 0, 0, 2, 8])
    found = pair_cosines(a, b, match)
    assert np.isnan(found[1])
    for feature in (0, 2, 3, 4, 5):
        assert found[feature] == pytest.approx(cosine(a[feature], b[match[feature]]), abs=1e-12)
    assert np.isnan(pair_cosines(a, b, np.full(6, -1))).all()


@pytest.mark.parametrize("held", [1, 3, 7, 100])
@pytest.mark.parametrize("sizes", [(7, 7), (7, 4), (3, 9), (1, 1)])
def test_each_features_best_cosine(monkeypatch, held, sizes):
    monkeypatch.setattr(module, "ROWS", held)
    a, b = rows(2, sizes[0], zeros=[0] if sizes[0] > 1 else []), rows(3, sizes[1])
    table = np.array([[cosine(u, v) for v in b] for u in a])
    for found, expected in zip(best_cosines(a, b), (table, table.T), strict=True):
        assert list(found.best) == [int(np.argmax(row)) for row in expected]
        np.testing.assert_allclose(found.r, expected.max(1), atol=1e-12)


@pytest.mark.parametrize("held", [1, 2, 100])
def test_of_equally_close_ones_the_lowest_number_is_best(monkeypatch, held):
    monkeypatch.setattr(module, "ROWS", held)
    a, b = np.eye(4)[[2, 1, 2, 1]], np.eye(4)[[1, 2, 1, 2]]
    down, up = best_cosines(a, b)
    assert (list(down.best), list(up.best)) == ([1, 0, 1, 0], [1, 0, 1, 0])
    assert down.r.tolist() == up.r.tolist() == [1] * 4


@pytest.mark.parametrize("sizes", [(5, 5), (5, 3), (2, 6)])
def test_pw_mcc_is_the_best_of_all_assignments(sizes):
    a, b = rows(4, sizes[0]), rows(5, sizes[1], zeros=[1])
    few, many = (a, b) if len(a) <= len(b) else (b, a)
    sums = [
        sum(cosine(few[k], many[place]) for k, place in enumerate(places))
        for places in itertools.permutations(range(len(many)), len(few))
    ]
    assert pw_mcc(a, b) == pytest.approx(max(sums) / len(few), abs=1e-12)
    greedy = np.mean([max(cosine(u, v) for v in many) for u in few])
    assert pw_mcc(a, b) <= greedy + 1e-12


def test_no_assignment_of_dictionaries_that_are_too_large(monkeypatch):
    a, b = rows(4, 6), rows(5, 5)
    monkeypatch.setattr(module, "ASSIGNED", 30)
    assert pw_mcc(a, b) == pytest.approx(pw_mcc(b, a), abs=1e-12)
    monkeypatch.setattr(module, "ASSIGNED", 29)
    assert pw_mcc(a, b) is None


def test_the_same_features_in_another_order_are_the_same_dictionary():
    a = rows(6, 20, 8)
    b = a[np.random.default_rng(0).permutation(20)]
    assert pw_mcc(a, b) == pytest.approx(1, abs=1e-12)
    for side in best_cosines(a, b):
        np.testing.assert_allclose(side.r, 1, atol=1e-12)
    np.testing.assert_array_equal(b[best_cosines(a, b)[0].best], a)
