"""The shared sample and the features that fire on it."""

import numpy as np
import pyarrow as pa
import pytest
from autoencoders import random_autoencoder

from feature_lineage.errors import InputError
from feature_lineage.features import collect as features
from feature_lineage.models.hooks import activations
from feature_lineage.text import sample as samples

HOOK = "blocks.0.mlp.hook_post"


def test_a_sample_has_as_many_tokens_of_each_corpus_and_knows_their_documents(token_directories):
    sample = samples.sample_windows(token_directories, 800, 8, seed=0)
    assert sample["tokens"].shape == (100, 8)
    assert np.bincount(sample["corpus"]).tolist() == [50, 50]
    assert len(np.unique(sample["tokens"], axis=0)) > 90
    for number, path in enumerate(token_directories.values()):
        stream = np.concatenate([np.load(path / f) for f in sorted(p.name for p in path.glob("shard-*.npy"))])
        ends = np.flatnonzero(stream == 0)  # the end token is the first of the vocabulary
        for row in np.flatnonzero(sample["corpus"] == number)[:20]:
            inside = np.flatnonzero(sample["tokens"][row][:-1] == 0)
            steps = np.flatnonzero(np.diff(sample["document"][row]))
            assert inside.tolist() == steps.tolist()
            assert sample["document"][row].max() < len(ends)
    again = samples.sample_windows(token_directories, 800, 8, seed=0)
    assert all((sample[key] == again[key]).all() for key in sample)
    assert not (samples.sample_windows(token_directories, 800, 8, seed=1)["tokens"] == sample["tokens"]).all()


def test_a_sample_larger_than_a_corpus_is_refused(token_directories):
    with pytest.raises(InputError, match=r"tokens/ast.*smaller than asked.*flow\.tokens"):
        samples.sample_windows(token_directories, 10**6, 8, seed=0)


def test_collected_features_are_the_non_zero_ones_of_the_autoencoder(monkeypatch, token_directories, bridge):
    monkeypatch.setattr(features, "windows_at_once", lambda *sizes: 7)
    tokens = samples.sample_windows(token_directories, 400, 8, seed=0)["tokens"]
    autoencoder = random_autoencoder()
    statistics = features.Statistics(tokens.size, 48)
    batches = features.collect_features(bridge, HOOK, autoencoder, tokens)
    table = pa.Table.from_batches(list(statistics.counting(batches)))
    dense = autoencoder.encode(activations(bridge, HOOK, tokens.astype(np.int64))).numpy()
    found = np.zeros_like(dense)
    found[table["token"].to_numpy(), table["feature"].to_numpy()] = table["activation"].to_numpy()
    np.testing.assert_allclose(found, dense, atol=1e-6)
    assert (table["activation"].to_numpy() > 0).all()
    assert (np.diff(table["token"].to_numpy()) >= 0).all()
    counted = statistics.table().to_pandas()
    np.testing.assert_array_equal(counted["active"], (found > 0).sum(0))
    np.testing.assert_allclose(counted["density"], (found > 0).mean(0))
    np.testing.assert_allclose(counted["max"], found.max(0))
    np.testing.assert_allclose(counted["mean"] * counted["active"], found.sum(0), rtol=1e-5)
