"""The bootstrap against numpy on the tokens that a replicate draws."""

import warnings

import numpy as np
import pyarrow as pa
import pytest
from test_feature_tokens import sparse_activations, write_activations

from feature_lineage.features import activations as feature_activations
from feature_lineage.features.activations import read_activations
from feature_lineage.flow import bootstrap as module
from feature_lineage.flow.bootstrap import (
    REPLICATES,
    Comparison,
    bootstrap_flow,
    interval,
    number_documents,
    resample,
    resample_together,
    sample_documents,
)
from feature_lineage.flow.correlation import CORRELATIONS, correlate

CORPUS = np.repeat([0, 0, 1, 2], 25)  # of 100 windows of 3 tokens
SIZES = [1, 5, 44, 100, 20, 55, 75]  # tokens of each document: 3 in corpus 0, 2 in corpus 1, 2 in corpus 2


def sample():
    """Documents of very different sizes: number of each in its corpus, [windows, length]."""
    number = np.repeat([0, 3, 4, 1, 0, 1, 2, 3, 4], [1, 5, 44, 100, 20, 55, 30, 15, 30])
    return CORPUS, number.reshape(100, 3)


def side(seed, shared=None):
    dense = sparse_activations(seed, 300, 14, 0.15)
    if shared is not None:  # the first ten correlate with the other side, from nearly not to nearly 1
        for feature in range(10):
            dense[:, feature] = shared[:, feature] + dense[:, feature] * 0.1 * feature
    dense[:, 10] = 0  # dead
    dense[:, 11] = 0.1  # constant
    dense[:, 12] = 0
    dense[3, 12] = 2.0  # one active token, in the document of 5 tokens
    dense[:, 13] = 50 + dense[:, 13]  # dense, a mean far above its deviation
    return dense


@pytest.fixture
def files(tmp_path):
    a = side(0)
    b = side(1, a)
    return a, b, write_activations(tmp_path / "a.parquet", a), write_activations(tmp_path / "b.parquet", b)


def redrawn(dense, document, drawn):
    """The tokens of a replicate, document after document."""
    return np.concatenate([np.tile(dense[document == d], (times, 1)) for d, times in enumerate(drawn)]).astype(
        np.float64
    )


# --- documents ---------------------------------------------------------------------------------------------


def test_a_document_is_a_corpus_and_a_number():
    document, corpus = number_documents(*sample())
    assert list(corpus) == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    flat = sample()[1].ravel()
    homes = np.repeat(CORPUS, 3)
    for number in range(len(corpus)):
        inside = document == number
        assert set(homes[inside]) == {corpus[number]}
        assert len(set(flat[inside])) == 1
        assert inside.sum() == np.sum((homes == corpus[number]) & (flat == flat[inside][0]))


def test_each_corpus_keeps_its_number_of_documents_and_each_document_is_as_likely():
    corpus = np.array([0] * 4 + [1] + [2] * 10)
    drawn = sample_documents(corpus, 2000, seed=3)
    for number, documents in ((0, 4), (1, 1), (2, 10)):
        assert (drawn[corpus == number].sum(0) == documents).all()
    np.testing.assert_allclose(drawn.mean(1), 1, atol=0.1)
    np.testing.assert_allclose(drawn[:4].var(1), 0.75, atol=0.1)  # of 4 draws with probability 1/4
    assert (sample_documents(corpus, 2000, seed=3) == drawn).all()
    assert (sample_documents(corpus, 2000, seed=4) != drawn).any()


# --- correlations of a replicate ---------------------------------------------------------------------------


@pytest.mark.parametrize("few", [20, 0])
@pytest.mark.parametrize(("block", "entries"), [(13, 1), (13, 150), (1000, 1 << 23)])
def test_each_replicate_is_numpys_correlation_of_the_tokens_drawn(files, monkeypatch, block, entries, few):
    """Values weighed one by one, or added up by document first; a block, some and all, and a pair, some and all at a time."""
    a, b, path_a, path_b = files
    monkeypatch.setattr(module, "ENTRIES", entries)
    monkeypatch.setattr(feature_activations, "BLOCK", block)
    monkeypatch.setattr(module, "FEW", few)
    document, corpus = number_documents(*sample())
    drawn = sample_documents(corpus, 20, seed=0)
    i, j = (grid.ravel() for grid in np.meshgrid(np.arange(14), np.arange(14), indexing="ij"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = resample(path_a, path_b, i, j, document, drawn)
    dead = 0
    for replicate in range(20):
        tokens_a, tokens_b = (redrawn(dense, document, drawn[:, replicate]) for dense in (a, b))
        np.testing.assert_array_equal(found.active_a[:, replicate], (tokens_a > 0).sum(0))
        np.testing.assert_array_equal(found.active_b[:, replicate], (tokens_b > 0).sum(0))
        with np.errstate(all="ignore"):
            expected = np.corrcoef(tokens_a.T, tokens_b.T)[:14, 14:]
        expected[np.ptp(tokens_a, axis=0) == 0] = np.nan
        expected[:, np.ptp(tokens_b, axis=0) == 0] = np.nan
        np.testing.assert_allclose(found.r[:, replicate], expected.ravel(), atol=1e-9)
        dead += not tokens_a[:, 12].any()
    assert 0 < dead < 20, "the feature of one token is dead in some replicates"


@pytest.mark.parametrize("few", [20, 0])
def test_several_comparisons_of_several_files(tmp_path, monkeypatch, few):
    """Three files of different widths: pairs of numbers, pairs chosen (one of them twice), a file with itself, and no pair at all."""
    monkeypatch.setattr(feature_activations, "BLOCK", 29)
    monkeypatch.setattr(module, "FEW", few)
    sides = [side(0), side(1, side(0)), side(2)[:, :9]]
    paths = [write_activations(tmp_path / f"{k}.parquet", matrix) for k, matrix in enumerate(sides)]
    document, corpus = number_documents(*sample())
    drawn = sample_documents(corpus, 8, seed=2)
    chosen, nothing = (np.array([3, 8, 3, 0]), np.array([13, 0, 13, 2])), (np.zeros(0, int), np.zeros(0, int))
    asked = [
        Comparison(0, 1),
        Comparison(1, 2, (chosen[1], chosen[1] % 9)),
        Comparison(2, 2),
        Comparison(0, 2, nothing),
    ]
    found = resample_together(paths, asked, document, drawn)
    every = [np.arange(14), chosen[1], np.arange(9), nothing[0]]
    other = [np.arange(14), chosen[1] % 9, np.arange(9), nothing[0]]
    for replicate in range(8):
        tokens = [redrawn(matrix, document, drawn[:, replicate]) for matrix in sides]
        for active, matrix in zip(found.active, tokens, strict=True):
            np.testing.assert_array_equal(active[:, replicate], (matrix > 0).sum(0))
        for r, one, i, j in zip(found.r, asked, every, other, strict=True):
            for got, x, y in zip(r[:, replicate], tokens[one.a][:, i].T, tokens[one.b][:, j].T, strict=True):
                with np.errstate(all="ignore"):
                    expected = np.corrcoef(x, y)[0, 1] if np.ptp(x) and np.ptp(y) else np.nan
                assert got == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert [len(r) for r in found.r] == [14, 4, 9, 0]


def test_every_document_once_is_the_sample_itself(files):
    _, _, path_a, path_b = files
    document, corpus = number_documents(*sample())
    table = correlate(read_activations(path_a), read_activations(path_b), 0.05)
    i, j = table["feature_a"].to_numpy(), table["feature_b"].to_numpy()
    found = resample(path_a, path_b, i, j, document, np.ones((len(corpus), 1)))
    np.testing.assert_allclose(found.r[:, 0], table["r"].to_numpy(), atol=1e-9)


# --- the share of a replicate ------------------------------------------------------------------------------


def counts_by_hand(a, b, threshold, min_active):
    """Living and persisting features of both sides, from dense tokens."""
    alive_a, alive_b = ((dense > 0).sum(0) >= min_active for dense in (a, b))
    with np.errstate(all="ignore"):
        r = np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]
    r[np.ptp(a, axis=0) == 0] = -1
    r[:, np.ptp(b, axis=0) == 0] = -1
    r = np.where(np.outer(alive_a, alive_b), r, -1)
    return [alive_a.sum(), (r.max(1) > threshold).sum(), alive_b.sum(), (r.max(0) > threshold).sum()]


@pytest.mark.parametrize("memory", [1 << 29, 8 * 200 * 7])
@pytest.mark.parametrize("min_active", [1, 40])
def test_counts_of_each_replicate_by_hand(files, monkeypatch, min_active, memory):
    """Best matches are taken anew, the dead of a replicate are not counted; replicates done in turns change nothing."""
    a, b, path_a, path_b = files
    monkeypatch.setattr(module, "MARGIN", 2.0)  # all pairs
    monkeypatch.setattr(module, "MEMORY", memory)
    document, corpus = number_documents(*sample())
    drawn = sample_documents(corpus, 30, seed=1)
    table = correlate(read_activations(path_a), read_activations(path_b), -1.0)
    found = bootstrap_flow(path_a, path_b, table, document, drawn, 0.8, min_active)
    assert found.schema == REPLICATES
    rows = [list(row.values()) for row in found.to_pylist()]
    expected = []
    for replicate in range(30):
        tokens = (redrawn(dense, document, drawn[:, replicate]) for dense in (a, b))
        expected.append([replicate, *counts_by_hand(*tokens, 0.8, min_active)])
    assert rows == expected
    assert len({tuple(row[1:]) for row in rows}) > 4
    assert len(set(found["parent_living"].to_pylist())) > 1


def test_candidates_are_pairs_near_the_threshold_and_each_features_best():
    pairs = [(0, 0, 0.9), (0, 1, 0.6), (0, 2, 0.59), (1, 0, 0.3), (2, 2, 0.7), (3, 3, 0.1), (1, 3, 0.05)]
    rows = [{"feature_a": a, "feature_b": b, "r": r, "both": 1, "either": 1} for a, b, r in pairs]
    a, b = module.near_pairs(pa.Table.from_pylist(rows, CORRELATIONS), 0.8)
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == {(0, 0), (0, 1), (2, 2), (1, 0), (3, 3)}


def test_an_edge_without_any_pair(tmp_path):
    silent = write_activations(tmp_path / "a.parquet", np.zeros((300, 3), np.float32))
    document, corpus = number_documents(*sample())
    drawn = sample_documents(corpus, 5, seed=0)
    table = bootstrap_flow(silent, silent, CORRELATIONS.empty_table(), document, drawn, 0.8, 1)
    assert [list(row.values())[1:] for row in table.to_pylist()] == [[0, 0, 0, 0]] * 5
    assert interval(table, "parent", 0.5) is None


def replicated(shares):
    """Replicates of 1,000 living features with these shares."""
    persisting = np.round(1000 * np.asarray(shares)).astype(int)
    living = np.full(len(persisting), 1000)
    return pa.table([np.arange(len(living)), living, persisting, living, persisting], schema=REPLICATES)


def test_an_interval_contains_its_share():
    """Replicates all above the share, all below, at both ends, all alike; the quantiles reflected at the share left it out."""
    random = np.random.default_rng(0)
    for centre in (0.02, 0.3, 0.5, 0.97):
        for lean in (-0.3, -0.05, 0, 0.05, 0.3):
            for spread in (0, 0.01, 0.2):
                table = replicated(np.clip(centre + lean + spread * random.standard_normal(50), 0, 1))
                for side in ("parent", "child"):
                    low, high = interval(table, side, centre)
                    assert 0 <= low <= centre <= high <= 1
    reach = 1.96 * ((0.1**2 + 0.2**2 + 0.3**2) / 3) ** 0.5
    assert interval(replicated([0.6, 0.7, 0.8]), "parent", 0.5) == pytest.approx((0.5 - reach, 0.5 + reach))
    assert interval(replicated([0.25, 0.25]), "child", 0.25) == (0.25, 0.25)


def document_sums(random, documents, features=80, candidates=1):
    """Sums of documents of unequal length and subject: count, a, aa, and of each candidate of each feature b, bb, ab."""
    found = []
    for _ in range(documents):
        shape = random.integers(5, 40), features
        level = random.gamma(4, 0.25, features)
        a = (random.random(shape) < 0.2) * random.exponential(1, shape) * level
        noise = (random.random((candidates, *shape)) < 0.2) * random.exponential(1, (candidates, *shape))
        b = a + noise * np.linspace(0.3, 1.3, features)
        whole = np.full(features, shape[0])
        found.append([whole, a.sum(0), (a * a).sum(0), *b.sum(1), *(b * b).sum(1), *(a * b).sum(1)])
    return np.array(found)


def persisting_share(sums):
    """Of [..., 3 + 3 candidates, features], by the definition of Pearson's correlation and the best match above .8."""
    n, a, aa = (sums[..., k, :] for k in range(3))
    b, bb, ab = np.split(sums[..., 3:, :], 3, axis=-2)
    n, a, aa = (x[..., None, :] for x in (n, a, aa))
    r = (ab / n - a * b / n**2) / np.sqrt((aa / n - (a / n) ** 2) * (bb / n - (b / n) ** 2))
    return (r.max(-2) > 0.8).mean(-1)


@pytest.mark.parametrize(("documents", "candidates"), [(10, 1), (40, 1), (150, 2)])
def test_intervals_cover_the_share_of_all_documents(documents, candidates):
    """Of samples drawn from known documents, nine of ten and more; and more than quantiles reflected at the share, which cover eight.

    Where features have two equally good matches the share itself leans upwards, which no resampling of few documents sees: 87 % of
    150 documents are covered, 70 % of 40.
    """
    random = np.random.default_rng(2)
    truth = persisting_share(document_sums(random, 4000, candidates=candidates).sum(0))
    held, reflected = 0, 0
    for _ in range(100):
        sums = document_sums(random, documents, candidates=candidates)
        drawn = random.multinomial(documents, np.full(documents, 1 / documents), 100)
        shares, share = persisting_share(np.einsum("rd,dkn->rkn", drawn, sums)), persisting_share(sums.sum(0))
        low, high = interval(replicated(shares), "parent", share)
        held += low <= truth <= high
        low, high = 2 * share - np.quantile(shares, [0.975, 0.025])
        reflected += low <= truth <= high
    assert held / 100 >= (0.9 if candidates == 1 else 0.8) and held > reflected, (held, reflected)


# --- documents, not tokens ---------------------------------------------------------------------------------


def one_edge(folder, a, b, document, corpus):
    paths = write_activations(folder / "a.parquet", a), write_activations(folder / "b.parquet", b)
    table = correlate(*(read_activations(path) for path in paths), 0.3)
    return bootstrap_flow(*paths, table, document, sample_documents(corpus, 200, seed=0), 0.8, 1)


def test_tokens_repeated_within_documents_make_no_interval_narrower(tmp_path):
    """Fifty copies of every token say nothing new. An interval over tokens would shrink by a factor of seven."""
    random = np.random.default_rng(0)
    a = sparse_activations(5, 80, 40, 0.3)
    b = (a + random.uniform(0.2, 1.2, 40) * sparse_activations(6, 80, 40, 0.3)).astype(np.float32)
    document, corpus = np.repeat(np.arange(20), 4), np.zeros(20, np.int64)
    once = one_edge(tmp_path, a, b, document, corpus)
    often = one_edge(tmp_path, *(np.repeat(x, 50, axis=0) for x in (a, b, document)), corpus)
    low, high = interval(once, "parent", 0.5)
    assert high - low > 0.1
    assert interval(often, "parent", 0.5) == pytest.approx((low, high), abs=0.02)
    as_tokens = one_edge(tmp_path, *(np.repeat(x, 50, axis=0) for x in (a, b)), np.arange(4000), np.zeros(4000, int))
    narrow = interval(as_tokens, "parent", 0.5)
    assert narrow[1] - narrow[0] < 0.6 * (high - low), "what an interval over tokens would say"
