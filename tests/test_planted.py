"""The flow finds what is planted: precision and recall of "persisting" where the truth is known, and none where nothing is shared."""

import numpy as np
import planted
import planted_verdicts
import pytest
import torch
from scipy import sparse

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.features.activations import Activations

pytestmark = pytest.mark.usefixtures("one_thread")

SHARED = {"kept": 24, "rotated": 6, "split": 6, "removed": 6, "new": 6}
N, FEATURES, BATCH, STEPS, JUDGED = 32, 64, 512, 1200, 20_000
TRAINED = BATCH * STEPS


def plant(tokens=20_000, counts=SHARED, **options):
    return planted.plant(tokens, N, counts, **({"density": (2e-3, 1e-1), "seed": 0} | options))


def dense_correlations(a, b):
    """Independent of the project's correlation: numpy's, float64, on dense codes."""
    return np.corrcoef(a.toarray().T, b.toarray().T)[: a.shape[1], a.shape[1] :]


# --- what is planted ----------------------------------------------------------------------------------------


def test_codes_correlate_as_the_truth_says():
    parent, child = plant(density=(2e-2, 2e-1))
    r = dense_correlations(parent.codes, child.codes)
    for own, best in ((parent, r.max(1)), (child, r.max(0))):
        assert set(np.unique(own.kind)) == set(SHARED) - ({"new"} if own is parent else {"removed"})
        np.testing.assert_array_equal(best > 0.8, [planted.PERSISTS[kind] for kind in own.kind])
    assert r.max(1)[parent.kind == "split"] == pytest.approx(0.5**0.5, abs=0.06)
    assert (r.max(1)[parent.kind == "rotated"] > 0.95).all()
    assert r.max(1)[parent.kind == "removed"].max() < 0.1
    assert r.max(0)[child.kind == "new"].max() < 0.1


def test_directions_are_kept_turned_and_split():
    parent, child = plant(angle=50.0)
    for family in (parent, child):
        np.testing.assert_allclose(np.linalg.norm(family.dictionary, axis=1), 1)
        assert family.dictionary.shape == (family.codes.shape[1], N)
        assert len(family.dictionary) > N
    cosines = parent.dictionary @ child.dictionary.T
    np.testing.assert_allclose(cosines[parent.kind == "kept"][:, child.kind == "kept"].max(1), 1)
    rotated = cosines[parent.kind == "rotated"][:, child.kind == "rotated"]
    np.testing.assert_allclose(np.diag(rotated), np.cos(np.deg2rad(50)))
    first, second = np.split(child.dictionary[child.kind == "split"], 2)
    whole = parent.dictionary[parent.kind == "split"]
    np.testing.assert_allclose((first + second) / np.sqrt(2), whole)
    np.testing.assert_allclose((first * second).sum(1), 0, atol=1e-12)


def test_halves_share_the_tokens_of_the_whole():
    parent, child = plant(jitter=0.0)
    first, second = np.split(child.codes[:, child.kind == "split"].toarray(), 2, axis=1)
    np.testing.assert_array_equal(first + second, parent.codes[:, parent.kind == "split"].toarray())
    assert not (first * second).any()
    assert (first > 0).sum() / (parent.codes[:, parent.kind == "split"].count_nonzero()) == pytest.approx(0.5, abs=0.1)


def test_densities_are_log_uniform():
    parent, _ = plant(100_000, {"kept": 400}, density=(1e-4, 1e-1))
    density = np.bincount(parent.codes.indices, minlength=400) / 100_000
    np.testing.assert_allclose(np.quantile(np.log10(density), [0.25, 0.5, 0.75]), [-3.25, -2.5, -1.75], atol=0.2)
    assert parent.codes.data.min() > 0


def test_pairs_have_the_cosine_asked_for():
    parent, _ = plant(counts={"kept": 40}, cosine=(0.7, 0.9))
    cosines = (parent.dictionary[::2] * parent.dictionary[1::2]).sum(1)
    assert cosines.min() > 0.7
    assert cosines.max() < 0.9
    assert np.ptp(cosines) > 0.1


def test_activations_are_codes_times_dictionary_and_noise():
    parent, child = plant(noise=0.05)
    x = parent.activations(1000, 3000)
    assert x.dtype == torch.float32
    rest = x.double().numpy() - parent.codes[1000:3000].toarray() @ parent.dictionary
    assert rest.std() == pytest.approx(0.05, rel=0.02)
    assert torch.equal(x, parent.activations(1000, 3000))
    other = child.activations(1000, 3000).double().numpy() - child.codes[1000:3000].toarray() @ child.dictionary
    assert abs(np.corrcoef(rest.ravel(), other.ravel())[0, 1]) < 0.02  # or the noise itself would persist


# --- the rates ----------------------------------------------------------------------------------------------


def oracle(family):
    """An autoencoder with the true dictionary, orthonormal: what it learned is what was planted."""
    decoder = torch.from_numpy(family.dictionary).float()
    return SparseAutoencoder(decoder.T.contiguous(), torch.full((len(decoder),), -0.2), decoder, torch.zeros(N))


@pytest.fixture
def ideal():
    """Seven features of the parent and eight of the child, in perpendicular directions; eight of them persist."""
    counts = {"kept": 3, "rotated": 1, "split": 1, "removed": 2, "new": 2}
    parent, child = plant(counts=counts, density=(2e-2, 2e-1))
    axes = np.eye(N)
    return parent._replace(dictionary=axes[: len(parent.kind)]), child._replace(dictionary=axes[: len(child.kind)])


def test_a_perfect_dictionary_scores_one(ideal):
    found = planted.judge(ideal, tuple(map(oracle, ideal)), 0)
    assert planted.rates(found) == dict.fromkeys(("precision", "recall", "recovered", "recall_of_recovered"), 1.0)
    assert (found.learned["fate"] == "persisting").sum() == 8
    assert list(found.true["called"]) == list(found.true["persists"])


def test_rates_count_what_is_lost_and_what_is_false(ideal):
    """One persisting feature turned to a direction that is no true one, in both models alike: called, but recovers nothing."""
    autoencoders = tuple(map(oracle, ideal))
    for family, autoencoder in zip(ideal, autoencoders, strict=True):
        autoencoder.W_dec[np.flatnonzero(family.kind == "kept")[0]] = torch.eye(N)[-1]
    found = planted.rates(planted.judge(ideal, autoencoders, 0))
    assert found == pytest.approx({"precision": 6 / 8, "recall": 6 / 8, "recovered": 6 / 8, "recall_of_recovered": 1.0})


# --- autoencoders and the flow --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """A function that trains an autoencoder on each side, by the project's own training."""

    def run(families, steps=STEPS):
        for seed, family in enumerate(families):
            yield planted.train(
                family, BATCH * steps, BATCH, tmp_path_factory.mktemp("sae") / "checkpoint.safetensors",
                FEATURES, seed, lr=2e-2, variant="jumprelu", l0=family.codes.nnz / family.codes.shape[0],
                l1=5e-3, l1_warmup_steps=30, normalize=True, init="transpose",
            )  # fmt: skip

    return lambda families, **options: tuple(run(families, **options))


@pytest.fixture(scope="module")
def learned(train):
    """Two planted models, their autoencoders, and what the flow says on tokens that these were not trained on."""
    families = plant(TRAINED + JUDGED)
    autoencoders = train(families)
    return families, autoencoders, planted.judge(families, autoencoders, TRAINED)


def test_the_flow_finds_what_was_planted(learned):
    found = planted.rates(learned[2])
    assert found["precision"] >= 0.95
    assert found["recall"] >= 0.95
    assert found["recovered"] >= 0.95


def test_verdicts_by_kind(learned):
    """A rotated feature persists by its activations; of one split in two neither half does; removed and new ones do not."""
    true = learned[2].true
    called = true.groupby("kind")["called"].mean()
    recovered = true.groupby("kind")["recovered"].mean()
    assert called["rotated"] >= 0.9
    for kind in ("split", "removed", "new"):
        assert recovered[kind] >= 0.8  # so that there was something to be wrong about
        assert called[kind] <= 0.1


def test_tokens_of_one_model_shuffled_nothing_persists(learned):
    families, autoencoders, _ = learned
    order = np.random.default_rng(0).permutation(TRAINED + JUDGED)
    shuffled = families[1]._replace(codes=families[1].codes[order])
    found = planted.judge((families[0], shuffled), autoencoders, TRAINED)
    assert found.true["recovered"].mean() > 0.9
    assert not (found.learned["fate"] == "persisting").any()
    assert planted.rates(found)["recall"] == 0


def test_shifted_against_each_other_nothing_persists(learned):
    families, autoencoders, verdicts = learned
    a, b = (planted.encode(*both, TRAINED) for both in zip(autoencoders, families, strict=True))
    half = JUDGED // 2
    shifted = Activations(sparse.csr_array(sparse.vstack([b.matrix[half:], b.matrix[:half]])))
    assert (planted.flow(a, b, 0.8)["fate"] == "persisting").sum() == (verdicts.learned["fate"] == "persisting").sum()
    assert (planted.flow(a, shifted, 0.8)["fate"] != "persisting").all()


def test_of_models_that_share_nothing_nothing_persists(train):
    families = plant(TRAINED + JUDGED, {"removed": 24, "new": 24})
    found = planted.judge(families, train(families), TRAINED)
    assert found.true["recovered"].mean() > 0.9
    assert not (found.learned["fate"] == "persisting").any()


# --- verdicts -------------------------------------------------------------------------------------------------


def near_oracle(family, seed, turn=0.01, threshold=0.45):
    """A dictionary whose directions are nearly the true ones, and whose thresholds are where trained ones lie."""
    random = np.random.default_rng(seed)
    rows = family.dictionary + turn * random.standard_normal(family.dictionary.shape)
    decoder = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()
    zeros = torch.zeros(len(decoder)), torch.zeros(decoder.shape[1])
    return SparseAutoencoder(
        decoder.T.contiguous(), zeros[0], decoder, zeros[1], torch.full((len(decoder),), threshold)
    )


@pytest.fixture(scope="module")
def verdicts():
    """Nearly perfect dictionaries, few features in many elements, a rotation of 75°: nothing is in a feature's way."""
    counts = {"kept": 12, "rotated": 4, "split": 4, "removed": 4, "new": 4}
    families = planted.plant(20_000, 512, counts, density=(1e-2, 5e-2), seed=0, angle=75.0)
    models = [[near_oracle(family, 2 * number + again) for again in (0, 1)] for number, family in enumerate(families)]
    return planted_verdicts.judge_all(families, models, 0, 0)


def test_with_nothing_in_the_way_each_verdict_is_what_theory_says(verdicts):
    features = planted_verdicts.recovered(verdicts["edge"])
    assert set(zip(features["side"], features["kind"], strict=True)) == set(planted_verdicts.EXPECTED)
    assert list(features["verdict"]) == list(features["expected"])
    found = planted_verdicts.rates(features).set_index("verdict")
    assert (found[["precision", "recall"]] == 1).all(axis=None)
    assert found["expected"].to_dict() == {"kept": 12 + 12 + 4, "found": 8, "drifted": 8, "lost": 8}
    assert set(features.loc[features["kind"] == "rotated", "direction"]) == {"rotated"}
    r = features.groupby(["side", "kind"])[["r", "mean_ratio"]].median()
    assert r.loc[("child", "split"), "r"] == pytest.approx(0.5**0.5, abs=0.06)
    assert r.loc[("parent", "split"), "mean_ratio"] == pytest.approx(0.5**0.5, abs=0.06)
    assert verdicts["silenced"] == 1


def test_a_child_that_is_its_parent_with_another_dictionary(verdicts):
    """Everything is kept, r = 1, and matching finds what the ceiling does, to the digit."""
    copy = verdicts["copy"]
    assert set(copy.features["verdict"].dropna()) == {"kept"}
    np.testing.assert_allclose(copy.features["r"].dropna(), 1, atol=1e-12)
    for side in ("parent", "child"):
        assert copy.numbers[side]["persisting"] == copy.numbers[side]["ceiling"]
        assert copy.numbers[side]["margin"] == 0
    for name in ("pw_mcc", "mean_max_cosine"):
        assert copy.numbers[name] == verdicts["parent"]["pairs"][0][name]


def test_a_placebo_keeps_what_there_is(verdicts):
    numbers = verdicts["placebo"].numbers["parent"]
    assert numbers["kept"] == 1 and numbers["persisting"] is None
    assert numbers["kept"] > verdicts["edge"].numbers["parent"]["kept"] > 0.5


def test_rates_of_verdicts_count_by_hand():
    rows = [("kept", "kept")] * 3 + [("kept", "found"), ("lost", "kept"), ("found", "found")]
    features = planted_verdicts.pd.DataFrame(rows, columns=["expected", "verdict"])
    found = planted_verdicts.rates(features).set_index("verdict")
    assert list(found.loc["kept"]) == [4, 4, 0.75, 0.75]
    assert list(found.loc["found"]) == [1, 2, 0.5, 1.0]
    assert list(found.loc["lost"])[:2] == [1, 0] and np.isnan(found.loc["lost", "precision"])
    assert found.loc["lost", "recall"] == 0 and np.isnan(found.loc["drifted", "recall"])
