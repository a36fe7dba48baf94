"""Activations read in blocks, and the token and corpus of each feature, against dense copies."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from feature_lineage.errors import InputError
from feature_lineage.features import activations as feature_activations
from feature_lineage.features.activations import activation_blocks
from feature_lineage.features.collect import ACTIVATIONS
from feature_lineage.meaning.main_token import TOKENS, _majority, weigh_tokens
from feature_lineage.store.formats import write_table


def write_activations(path, dense, tokens=None):
    token, feature = np.nonzero(dense)
    columns = [token.astype(np.int32), feature.astype(np.int32), dense[token, feature].astype(np.float32)]
    record = {"tokens": len(dense) if tokens is None else tokens, "features": dense.shape[1]}
    write_table(path, pa.table(columns, schema=ACTIVATIONS), ACTIVATIONS, record)
    return path


def sparse_activations(seed, tokens=300, features=12, share=0.2):
    random = np.random.default_rng(seed)
    fires = random.random((tokens, features)) < share
    return (fires * random.exponential(1.0, (tokens, features))).astype(np.float32)


# --- in blocks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 100, 299, 300, 1000])
@pytest.mark.parametrize("silent", [slice(0, 0), slice(0, 120), slice(50, 250), slice(200, 300), slice(0, 300)])
def test_blocks_are_the_sample_in_order(tmp_path, monkeypatch, block, silent):
    dense = sparse_activations(0)
    dense[silent] = 0
    path = write_activations(tmp_path / "a.parquet", dense)
    monkeypatch.setattr(feature_activations, "BLOCK", block)
    found = list(activation_blocks(path, 300))
    assert [first for first, _ in found] == list(range(0, 300, block))
    assert {part.shape[1] for _, part in found} == {12}
    np.testing.assert_array_equal(np.concatenate([part.toarray() for _, part in found]), dense)


def test_blocks_do_not_depend_on_how_the_file_was_written(tmp_path, monkeypatch):
    dense = sparse_activations(1)
    path = write_activations(tmp_path / "a.parquet", dense)
    reading = feature_activations.read_batches
    monkeypatch.setattr(feature_activations, "read_batches", lambda path, columns, rows: reading(path, columns, 5))
    monkeypatch.setattr(feature_activations, "BLOCK", 64)
    np.testing.assert_array_equal(np.concatenate([p.toarray() for _, p in activation_blocks(path, 300)]), dense)


def test_files_that_do_not_fit_are_refused(tmp_path):
    dense = sparse_activations(2)
    path = write_activations(tmp_path / "a.parquet", dense)
    with pytest.raises(InputError, match=r"a\.parquet: has 300 tokens, the sample 310"):
        list(activation_blocks(path, 310))
    path = write_activations(tmp_path / "b.parquet", dense, tokens=200)
    with pytest.raises(InputError, match=r"b\.parquet.*outside of \(200, 12\)"):
        list(activation_blocks(path, 200))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"b\.parquet.*truncated"):
        list(activation_blocks(path, 200))


def test_a_feature_out_of_range_is_named(tmp_path):
    table = pa.table([np.zeros(1, np.int32), np.full(1, 9, np.int32), np.ones(1, np.float32)], schema=ACTIVATIONS)
    write_table(tmp_path / "a.parquet", table, ACTIVATIONS, {"tokens": 4, "features": 9})
    with pytest.raises(InputError, match=r"a\.parquet.*outside of \(4, 9\)"):
        list(activation_blocks(tmp_path / "a.parquet", 4))


# --- tokens and corpora ------------------------------------------------------------------------------------


def masses(dense, tokens, corpus, count):
    """Mass on each token of the vocabulary and on each corpus, [features, ...]."""
    on_token, on_corpus = np.zeros((dense.shape[1], tokens.max() + 1)), np.zeros((dense.shape[1], count))
    for position, row in enumerate(dense.astype(np.float64)):
        on_token[:, tokens.ravel()[position]] += row
        on_corpus[:, corpus[position // tokens.shape[1]]] += row
    return on_token, on_corpus


@pytest.mark.parametrize("block", [1, 37, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_token_and_corpus_are_those_with_the_mass(tmp_path, monkeypatch, seed, block):
    """The vote runs over blocks in which another token leads: only the whole sample's majority counts."""
    random = np.random.default_rng(seed)
    tokens = np.sort(random.integers(0, 6, (60, 5)) * (random.random((60, 5)) < 0.75), axis=0)
    corpus = random.integers(0, 3, 60)
    dense = sparse_activations(seed, share=0.5)
    for feature in range(6):  # one token has from 30 to 100 % of the mass
        dense[tokens.ravel() != feature % 3, feature] *= (0.0, 0.05, 0.2, 0.5, 0.8, 1.0)[feature]
    dense[:, 7] = 0
    path = write_activations(tmp_path / "a.parquet", dense)
    monkeypatch.setattr(feature_activations, "BLOCK", block)
    table = weigh_tokens(path, tokens, corpus, ["x", "y", "z"])
    assert table.schema == TOKENS
    on_token, on_corpus = masses(dense, tokens, corpus, 3)
    majorities = 0
    for row, by_token, by_corpus in zip(table.to_pylist(), on_token, on_corpus, strict=True):
        assert row["mass"] == pytest.approx(by_token.sum())
        if not by_token.any():
            assert {row[name] for name in ("token", "token_share", "corpus", "corpus_share")} == {None}
            continue
        share = by_token.max() / by_token.sum()
        if share > 0.5:
            majorities += 1
            assert (row["token"], row["token_share"]) == (by_token.argmax(), pytest.approx(share))
        else:
            assert (row["token"], row["token_share"]) == (None, None)
        assert row["corpus"] == "xyz"[by_corpus.argmax()]
        assert row["corpus_share"] == pytest.approx(by_corpus.max() / by_corpus.sum())
    assert 2 <= majorities < 11


def test_the_leading_token_of_a_block_is_that_of_a_dense_copy():
    """Of equal ones the lowest number; nothing leads where a feature is silent, or no token has more than all others."""
    random = np.random.default_rng(5)
    tokens = random.choice([9, 2, 40, 7], 30)
    dense = random.integers(1, 3, (30, 40)) * (random.random((30, 40)) < 0.1).astype(np.float64)
    dense[:, 3] = 0
    winner, margin = _majority(sparse.csr_array(dense), tokens)
    found = np.unique(tokens)
    mass = np.array([dense[tokens == token].sum(0) for token in found])
    np.testing.assert_array_equal(winner, found[mass.argmax(0)])
    np.testing.assert_array_equal(margin, np.maximum(2 * mass.max(0) - mass.sum(0), 0))
    assert margin[3] == 0 and (margin > 0).sum() > 5 and (np.sort(mass, 0)[-1] == np.sort(mass, 0)[-2]).sum() > 5
    silent, none = _majority(sparse.csr_array((30, 2)), tokens)
    assert len(silent) == 2 and not none.any()


def test_a_block_in_which_another_token_leads_by_little_does_not_outvote_the_majority(tmp_path, monkeypatch):
    path = write_activations(tmp_path / "a.parquet", np.array([[10], [0], [6], [5], [6], [5]], np.float32))
    monkeypatch.setattr(feature_activations, "BLOCK", 2)
    (row,) = weigh_tokens(path, np.array([[1, 1], [2, 1], [2, 1]]), np.zeros(3, int), ["x"]).to_pylist()
    assert (row["token"], row["token_share"]) == (1, 20 / 32)


def test_half_of_the_mass_is_no_majority(tmp_path):
    path = write_activations(tmp_path / "a.parquet", np.array([[1, 2], [1, 2], [1, 3], [1, 1]], np.float32))
    found = weigh_tokens(path, np.array([[5, 5], [8, 9]]), np.array([0, 1]), ["x", "y"]).to_pylist()
    assert [row["token"] for row in found] == [None, None]
    assert [row["corpus"] for row in found] == ["x", "x"], "of equal ones the first"
