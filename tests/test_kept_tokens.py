"""Special tokens before documents are read by no autoencoder, in no feature and no comparison: all equals plain sums over the rest."""

import inspect
import json
import textwrap

import numpy as np
import pyarrow as pa
import pytest
import torch
from autoencoders import random_autoencoder
from trainings import train_autoencoder

from feature_lineage.autoencoders.evaluation import Evaluation, evaluate_autoencoder
from feature_lineage.controls.alignment_null import correlate_shifted, shifted_tokens
from feature_lineage.controls.neurons import correlate_neurons
from feature_lineage.features.activations import (
    PLACES,
    ActivationFile,
    Activations,
    Moved,
    activation_blocks,
    read_activations,
    whole_windows,
    window_pieces,
)
from feature_lineage.features.collect import KEPT_ACTIVATIONS, Statistics, collect_features
from feature_lineage.flow.bootstrap import number_documents, resample, sample_documents
from feature_lineage.flow.correlation import correlate
from feature_lineage.flow.drift import drift
from feature_lineage.meaning.main_token import weigh_tokens
from feature_lineage.meaning.tracking import Sample, measure
from feature_lineage.models.checkpoint import build_model, save_model
from feature_lineage.models.hooks import (
    activation_batches,
    activations,
    load_hooked,
    next_token_losses,
    paired_activations,
)
from feature_lineage.store.formats import read_json, write_table
from feature_lineage.text.boundaries import Boundaries
from feature_lineage.text.sample import kept_tokens, sample_windows
from feature_lineage.text.shards import encode_corpus
from feature_lineage.text.tokenizer import load_tokenizer, save_tokenizer
from feature_lineage.text.windows import Windows

HOOK = "blocks.0.mlp.hook_post"
LENGTH = 8
START = 0  # `<|endoftext|>` stands before each document here


@pytest.fixture(scope="module")
def place(tmp_path_factory, write_documents, tokenizer_dir, architecture, one_thread):
    """Short documents with a token before each, and two models that read it before every window, too."""
    root = tmp_path_factory.mktemp("kept")
    tokenizer = load_tokenizer(tokenizer_dir)
    save_tokenizer(tokenizer, root / "tokenizer", {}, Boundaries((START,), (), START))
    for corpus, module in (("json", json), ("wrap", textwrap)):
        texts = [line for line in inspect.getsource(module).split("\n") if line.strip()]
        encode_corpus(write_documents(root / f"{corpus}.parquet", texts), root / "tokenizer", root / corpus, {})
    for seed in (0, 1):
        model = build_model(architecture | {"intermediate_size": 24}, root / "tokenizer", seed)
        save_model(model, root / "tokenizer", root / f"model{seed}", {})
    return root


@pytest.fixture(scope="module")
def bridges(place):
    return [load_hooked(place / f"model{seed}", HOOK) for seed in (0, 1)]


@pytest.fixture(scope="module")
def directories(place):
    return {corpus: place / corpus for corpus in ("json", "wrap")}


@pytest.fixture(scope="module")
def sample(directories):
    return sample_windows(directories, 1600, LENGTH, seed=0)


@pytest.fixture(scope="module")
def sides(tmp_path_factory, bridges, sample):
    """Of both models: the file of features, and what they are by equation (2) in float64, on the tokens that are read."""
    found, folder = [], tmp_path_factory.mktemp("features")
    kept = sample["kept"]
    for seed, bridge in enumerate(bridges):
        autoencoder = random_autoencoder(seed=seed)
        record = {"tokens": int(kept.sum()), PLACES: kept.size, "features": 48}
        batches = collect_features(bridge, HOOK, autoencoder, sample["tokens"], None, kept)
        write_table(folder / f"{seed}.parquet", batches, KEPT_ACTIVATIONS, record)
        x = activations(bridge, HOOK, sample["tokens"].astype(np.int64))[torch.from_numpy(kept.ravel())].double()
        encoder, b_enc, b_dec = (value.double() for value in (autoencoder.W_enc, autoencoder.b_enc, autoencoder.b_dec))
        dense = torch.relu((x - b_dec) @ encoder + b_enc)
        found.append((folder / f"{seed}.parquet", autoencoder, dense.numpy()))
    return found


def test_the_sample_knows_what_is_read(sample, directories):
    assert sample["kept"].dtype == bool
    np.testing.assert_array_equal(sample["kept"], sample["tokens"] != START)
    assert 0.02 < 1 - sample["kept"].mean() < 0.5
    assert read_json(directories["json"] / "index.json")["left_out"] == [START]


def test_a_sample_without_special_tokens_says_nothing_of_it(token_directories):
    plain = sample_windows(token_directories, 400, LENGTH, seed=0)
    assert set(plain) == {"tokens", "corpus", "document"}
    assert kept_tokens(plain).all() and kept_tokens(plain).shape == plain["tokens"].shape
    windows = Windows(token_directories, LENGTH)
    assert windows.kept(np.arange(3)) is None


def test_features_equal_a_plain_computation_over_what_is_read(sides, sample, monkeypatch):
    rows = np.flatnonzero(sample["kept"])
    for path, _, dense in sides:
        assert dense.shape[0] == len(rows) == ActivationFile(path).tokens == read_activations(path).tokens
        found = read_activations(path).matrix.toarray()
        np.testing.assert_allclose(found, dense, atol=1e-6 * dense.max())
        streamed = np.concatenate([block.toarray() for _, block in activation_blocks(path, len(rows))])
        np.testing.assert_array_equal(streamed, found)
        np.testing.assert_array_equal(ActivationFile(path).read(40, 300).toarray(), found[40:300])
        # Numbered among all tokens, for window and position: nothing lies on what is left out.
        whole = np.zeros((sample["tokens"].size, 48))
        for window, position, feature, activation in window_pieces(path, sample["tokens"].shape):
            whole[window * LENGTH + position, feature] = activation
        np.testing.assert_array_equal(whole[rows], found)
        assert not np.delete(whole, rows, 0).any()
        entries = [one for _, one in whole_windows(path, sample["tokens"].shape, np.arange(48))]
        again = np.zeros_like(whole)
        for one in entries:
            again[one.window * LENGTH + one.position, one.place] = one.activation
        np.testing.assert_array_equal(again, whole)


def test_statistics_and_quality_count_what_is_read(sides, bridges, sample):
    _, autoencoder, dense = sides[0]
    statistics, quality = Statistics(len(dense), 48), Evaluation(24, 48)
    list(
        statistics.counting(collect_features(bridges[0], HOOK, autoencoder, sample["tokens"], quality, sample["kept"]))
    )
    np.testing.assert_allclose(statistics.table()["density"].to_numpy(), (dense > 0).mean(0), atol=1e-12)
    assert quality.result()["tokens"] == len(dense)
    assert quality.result()["l0"] == pytest.approx((dense > 0).sum(1).mean())


def test_correlations_drift_and_neurons_are_over_what_is_read(sides, bridges, sample):
    (path_a, _, a), (path_b, _, b) = sides
    with np.errstate(invalid="ignore"):
        expected = np.corrcoef(a, b, rowvar=False)[:48, 48:]
    table = correlate(ActivationFile(path_a), ActivationFile(path_b), -0.99).to_pandas()
    assert len(table) > 1000
    np.testing.assert_allclose(table["r"], expected[table["feature_a"], table["feature_b"]], atol=1e-6)
    for row in drift(path_a, path_b).to_pylist():
        if row["r"] is not None:
            assert row["r"] == pytest.approx(expected[row["feature"], row["feature"]], abs=1e-6)
        assert row["active"] == np.count_nonzero(a[:, row["feature"]])
    pairs = paired_activations(bridges, HOOK, sample["tokens"], sample["kept"])
    r = correlate_neurons(pairs, len(a))
    x, y = (
        activations(bridge, HOOK, sample["tokens"].astype(np.int64)).numpy()[sample["kept"].ravel()]
        for bridge in bridges
    )
    np.testing.assert_allclose(r, np.corrcoef(x, y, rowvar=False)[:24, 24:], atol=1e-6)


def test_documents_are_drawn_with_what_is_read_of_them(sides, sample):
    (path_a, _, a), (path_b, _, b) = sides
    document, corpus = number_documents(sample["corpus"], sample["document"], sample["kept"])
    assert len(document) == len(a)
    drawn = sample_documents(corpus, 3, 0)
    features = np.flatnonzero((a.std(0) > 0) & (b.std(0) > 0))[:3]
    found = resample(path_a, path_b, features, features, document, drawn)
    for replicate in range(3):
        rows = np.repeat(np.arange(len(document)), drawn[document, replicate])
        for place, feature in enumerate(features):
            expected = np.corrcoef(a[rows, feature], b[rows, feature])[0, 1]
            assert found.r[place, replicate] == pytest.approx(expected, abs=1e-5)
            assert found.active_a[feature, replicate] == np.count_nonzero(a[rows, feature])


def test_the_null_pairs_tokens_that_are_both_read(sides, sample):
    (path_a, _, a), (path_b, _, b) = sides
    kept, corpus, document = sample["kept"], sample["corpus"], sample["document"]
    found = correlate_shifted(ActivationFile(path_a), ActivationFile(path_b), corpus, document, [0.5], 0.3, kept=kept)
    places = shifted_tokens(corpus, LENGTH, 0.5)
    whole = [np.full((kept.size, 48), np.nan) for _ in range(2)]
    for one, dense in zip(whole, (a, b), strict=True):
        one[kept.ravel()] = dense
    both = kept.ravel() & kept.ravel()[places]
    left, right = (Activations(pa_sparse(one)) for one in (whole[0][both], whole[1][places][both]))
    table = correlate(left, right, 0.3).to_pandas()
    best = table.groupby("feature_a")["r"].max()
    alive = np.flatnonzero((a > 0).any(0))
    assert found[0]["q100"] == pytest.approx(best[best.index.isin(alive)].max(), abs=1e-6)
    same = (document.ravel() == document.ravel()[places])[both].mean()
    assert found[0]["same_document"] == pytest.approx(same)


def pa_sparse(dense):
    from scipy import sparse

    return sparse.csr_array(dense)


def test_tokens_in_another_order_are_read_across_small_gaps(sides):
    path = sides[0][0]
    found = read_activations(path).matrix.toarray()
    places = np.concatenate([np.arange(700, 900)[np.arange(200) % 7 != 0], np.arange(0, 650, 3), [10, 9, 9]])
    np.testing.assert_array_equal(Moved(ActivationFile(path), places).read(0, len(places)).toarray(), found[places])


def test_what_features_are_about_leaves_out_what_is_not_read(sides, sample):
    (path, _, dense), kept = sides[0], sample["kept"]
    flat = sample["tokens"][kept]
    table = weigh_tokens(path, sample["tokens"], sample["corpus"], ["json", "wrap"])
    np.testing.assert_allclose(table["mass"].to_numpy(), dense.sum(0), rtol=1e-5)
    special = np.zeros(400, bool)
    given = Sample(sample["tokens"], sample["corpus"], ["json", "wrap"], ["x"] * 400, special, kept)
    inside = np.ones(len(kept), bool)
    found = measure([(path, 1), (path, 5)], given, np.array([10, 11]), inside, [3, 0])
    np.testing.assert_allclose(found.correlations, np.corrcoef(dense[:, [1, 5]], rowvar=False), atol=1e-6)
    masses = np.stack([np.bincount(flat, dense[:, feature], 400) for feature in (1, 5)])
    np.testing.assert_allclose(found.masses, masses, rtol=1e-5, atol=1e-6)
    whole = np.zeros((kept.size, 48))
    whole[kept.ravel()] = dense
    np.testing.assert_allclose(
        found.shown, whole.reshape(*kept.shape, 48)[[3, 0]][..., [1, 5]].transpose(2, 0, 1), atol=1e-6
    )
    np.testing.assert_array_equal(given.read(inside), flat)


# --- training and evaluation of autoencoders ---------------------------------------------------------------


def test_autoencoders_are_trained_on_what_is_read(bridges, directories, tmp_path):
    windows = Windows(directories, LENGTH)
    chosen = np.arange(11)
    found = list(activation_batches(bridges[0], HOOK, windows, chosen, 4, ahead=2))
    for place, part in enumerate(found):
        tokens = windows[chosen[4 * place : 4 * place + 4]]
        expected = activations(bridges[0], HOOK, tokens)[torch.from_numpy((tokens != START).ravel())]
        torch.testing.assert_close(part, expected)
    assert len(found) == 2 and all(0 < len(part) < 32 for part in found)
    _, curve = train_autoencoder(bridges[0], directories, directories, tmp_path / "checkpoint.safetensors",
                                 tokens=960, context=LENGTH, batch=8, expansion=2)  # fmt: skip
    assert np.isfinite(curve["loss"].to_numpy()).all()


def test_an_evaluation_replaces_what_is_read_alone(bridges, directories):
    autoencoder = random_autoencoder()
    found = evaluate_autoencoder(bridges[0], HOOK, autoencoder, directories, LENGTH, 160)
    windows = Windows(directories, LENGTH)
    tokens = np.concatenate([windows[windows.spread(number, 160)] for number in range(2)])
    kept = tokens != START
    x = activations(bridges[0], HOOK, tokens)[torch.from_numpy(kept.ravel())]
    features = autoencoder.encode(x)
    assert found["tokens"] == kept.sum() < tokens.size
    assert found["l0"] == pytest.approx(float((features > 0).double().sum(1).mean()))
    seen = []

    def replaced(vectors):
        seen.append(vectors)
        return torch.zeros_like(vectors)

    loss = next_token_losses(bridges[0], HOOK, tokens, replaced, kept)
    assert found["loss_zero"] == pytest.approx(float(loss.double().mean()), rel=1e-6)
    torch.testing.assert_close(seen[0], x)
    same = next_token_losses(bridges[0], HOOK, tokens, torch.clone, kept)
    torch.testing.assert_close(same, next_token_losses(bridges[0], HOOK, tokens))


def test_files_of_a_sample_that_is_read_whole_are_as_before(token_directories, bridge):
    sample = sample_windows(token_directories, 160, LENGTH, seed=0)
    found = pa.Table.from_batches(list(collect_features(bridge, HOOK, random_autoencoder(), sample["tokens"])))
    assert found.column_names == ["token", "feature", "activation"]
