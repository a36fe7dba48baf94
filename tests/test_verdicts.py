"""Verdicts: each column against loops over dense matrices, the order of the words, and edges whose answer is known in advance."""

import itertools
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from edge import CHILD, PARENT, TOKENS, correlation, cosine, document_of, make_edge, matched, word
from test_direction import rows

from feature_lineage.controls.ceiling import measure_ceiling
from feature_lineage.controls.sides import sides
from feature_lineage.features import activations as reader
from feature_lineage.features.activations import read_activations
from feature_lineage.flow import bootstrap
from feature_lineage.flow.correlation import CORRELATIONS, correlate
from feature_lineage.flow.direction import Directions
from feature_lineage.flow.drift import DRIFT, drift
from feature_lineage.flow.stability import Dictionary, judged_documents, margin, measure_stability, others
from feature_lineage.flow.verdicts import (
    JUDGED,
    VERDICTS,
    Activations,
    Half,
    Limits,
    Stable,
    judge_features,
    numbers,
    verdict,
)

LIMITS = Limits(threshold=0.7, min_active=10)
HELD_OUT = ~judged_documents(document_of(), np.array([0] * 6 + [1] * 8 + [2]))
HALF = Half(document_of(), HELD_OUT)


@pytest.fixture
def edge(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "MARGIN", 2.0)  # every pair is a candidate on every half
    monkeypatch.setattr(reader, "BLOCK", 97)
    return make_edge(tmp_path)


def correlated(files, floor=-1.0):
    return correlate(*map(read_activations, files), floor)


def directions_of():
    parent, child = (Directions(rows(seed, PARENT), rows(seed + 1, PARENT)) for seed in (20, 30))
    child.decoder[:6] = parent.decoder[3:9]  # partners in the same direction, and others
    return [parent, Directions(child.decoder[:CHILD], child.encoder[:CHILD])]


def stable_of(seed, features, high=0.6):
    random = np.random.default_rng(seed)
    r, judged = random.uniform(0.3, 1, (2, features, 2))
    r[1, 0] = judged[1, 1] = judged[2, 0] = np.nan
    return Stable(r, judged, high)


def side(table, name):
    return table.filter(pc.equal(table["side"], name))


def check(column, expected):
    found = column.to_pylist()
    assert [value is None for value in found] == [value is None or value != value for value in expected]
    for got, wanted in zip(found, expected, strict=True):
        if got is not None:
            assert got == (pytest.approx(wanted, abs=1e-9) if isinstance(wanted, float) else wanted)


# --- the words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.8, 0.6, 0.5, 0.3])
def test_words_exclude_each_other_in_their_order(threshold):
    r = np.array([np.nan, -1, 0, 0.3, 0.31, 0.5, 0.5000001, 0.6, 0.6000001, 0.8, 0.8000001, 1])
    for matched_too in (False, True):
        found = verdict(r, np.full(len(r), matched_too), threshold)
        expected = [word(-1 if np.isnan(value) else value, 1.0 if matched_too else -1.0, threshold) for value in r]
        assert [VERDICTS[place] for place in found] == expected


# --- the columns -------------------------------------------------------------------------------------------


def test_every_column_is_its_definition(edge):
    directions, stables = directions_of(), [stable_of(0, PARENT), stable_of(1, CHILD)]
    found = judge_features(edge.files, correlated(edge.files.own), directions, stables, HALF, LIMITS).features
    assert found.schema == JUDGED and found.num_rows == PARENT + CHILD
    alive = [(dense > 0).sum(0) >= LIMITS.min_active for dense in edge.own]
    best = matched(*edge.own, *alive)
    inside = HELD_OUT[document_of()]
    best_inside = matched(*(dense[inside] for dense in edge.own), *alive)
    for place, name in enumerate(("parent", "child")):
        table, own, other, stable = side(found, name), edge.own[place], edge.other[place], stables[place]
        for column in DRIFT.names:
            assert table[column].equals(drift(edge.files.own[place], edge.files.other[place])[column])
        r = [correlation(x, y) for x, y in zip(own.T, other.T, strict=True)]
        number, match_r = best[place]
        here, there = directions[place], directions[1 - place]
        check(table["match"], [None if k < 0 else int(k) for k in number])
        check(table["match_r"], match_r.tolist())
        for column, a, b in (
            ("decoder_cosine", here.decoder, there.decoder),
            ("encoder_cosine", here.encoder, there.encoder),
        ):
            check(table[column], [None if k < 0 else cosine(a[f], b[k]) for f, k in enumerate(number)])
        check(table["best_cosine"], [max(cosine(u, v) for v in there.decoder) for u in here.decoder])
        check(
            table["direction"],
            [
                None
                if not m > 0.7
                else "same"
                if cosine(here.decoder[f], there.decoder[number[f]]) > 0.6
                else "rotated"
                for f, m in enumerate(match_r)
            ],
        )
        check(
            table["verdict"],
            [word(*pair, 0.7) if lives else None for *pair, lives in zip(r, match_r, alive[place], strict=True)],
        )
        check(table["reproducible"], [bool((row > 0.7).sum() >= 1) for row in stable.judged_r])
        check(
            table["margin"],
            [float(np.nan_to_num(m) - np.nan_to_num(row).mean()) for m, row in zip(match_r, stable.r, strict=True)],
        )
        r = [correlation(x[inside], y[inside]) for x, y in zip(own.T, other.T, strict=True)]
        lives = alive[place] & ((own[inside] > 0).sum(0) >= 5)
        check(table["held_out_r"], r)
        check(table["held_out_match_r"], best_inside[place][1].tolist())
        check(
            table["held_out_verdict"],
            [word(*pair, 0.7) if on else None for *pair, on in zip(r, best_inside[place][1], lives, strict=True)],
        )
    assert set(side(found, "parent")["verdict"].to_pylist()) == {*VERDICTS, None}
    assert set(found["direction"].to_pylist()) == {"same", "rotated", None}


def test_cosines_of_the_two_dictionaries(edge):
    directions = directions_of()
    found = judge_features(edge.files, correlated(edge.files.own), directions, [None, None], HALF, LIMITS).cosines
    table = np.array([[cosine(u, v) for v in directions[1].decoder] for u in directions[0].decoder])
    assert found["mean_max_cosine"] == pytest.approx((table.max(1).mean() + table.max(0).mean()) / 2, abs=1e-12)
    assert found.keys() == {"pw_mcc", "mean_max_cosine"}


def test_models_that_share_no_basis_have_no_directions(edge):
    with_them = judge_features(edge.files, correlated(edge.files.own), directions_of(), [None, None], HALF, LIMITS)
    without = judge_features(edge.files, correlated(edge.files.own), (), [None, None], HALF, LIMITS)
    assert without.cosines == {}
    for name in ("decoder_cosine", "encoder_cosine", "best_cosine", "direction"):
        assert without.features[name].null_count == PARENT + CHILD
    for name in ("verdict", "held_out_verdict", "match", "r"):
        assert without.features[name].equals(with_them.features[name])


@pytest.mark.parametrize("stable", [None, Stable(np.zeros((PARENT, 0)), np.zeros((PARENT, 0)), None)])
def test_one_seed_says_nothing_of_what_is_reproducible(edge, stable):
    stables = [stable, None]
    found = judge_features(edge.files, correlated(edge.files.own), directions_of(), stables, HALF, LIMITS).features
    for name in ("reproducible", "margin", "direction"):
        assert found[name].null_count == PARENT + CHILD
    assert found["decoder_cosine"].null_count < PARENT + CHILD


def test_a_placebo_has_the_parents_dictionary_alone(edge):
    files = Activations(edge.files.own[:1], edge.files.other[:1], ["parent"])
    alone = judge_features(files, None, (), [stable_of(0, PARENT)], HALF, LIMITS).features
    both = side(
        judge_features(edge.files, correlated(edge.files.own), (), [None, None], HALF, LIMITS).features, "parent"
    )
    assert alone["side"].to_pylist() == ["parent"] * PARENT
    for name in (*DRIFT.names, "held_out_r"):
        assert alone[name].equals(both[name])
    assert alone["match"].null_count == alone["match_r"].null_count == alone["held_out_match_r"].null_count == PARENT
    assert alone["reproducible"].null_count == 0
    for one, other, r in zip(
        alone["verdict"].to_pylist(), both["verdict"].to_pylist(), numbers(both, "r"), strict=True
    ):
        assert one == (other if other != "found" else word(r, np.nan, 0.7))


def test_without_any_pair_nothing_is_found(edge):
    found = judge_features(
        edge.files, CORRELATIONS.empty_table(), directions_of(), [stable_of(0, PARENT), None], HALF, LIMITS
    )
    assert found.features["match"].null_count == PARENT + CHILD
    assert "found" not in found.features["verdict"].to_pylist() + found.features["held_out_verdict"].to_pylist()


def test_a_feature_that_is_too_rare_is_dead_and_no_ones_match(edge):
    limits = Limits(threshold=0.7, min_active=TOKENS + 1)
    found = judge_features(edge.files, correlated(edge.files.own), directions_of(), [None, None], HALF, limits).features
    assert (
        found["verdict"].null_count
        == found["match"].null_count
        == found["held_out_verdict"].null_count
        == PARENT + CHILD
    )


@pytest.mark.parametrize(
    ("held_out", "left"), [(np.zeros(len(HELD_OUT), bool), 0), (np.ones(len(HELD_OUT), bool), None)]
)
def test_all_documents_in_one_half(edge, held_out, left):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = judge_features(
            edge.files, correlated(edge.files.own), (), [None, None], Half(document_of(), held_out), LIMITS
        ).features
    if left == 0:
        for name in ("held_out_r", "held_out_match_r", "held_out_verdict"):
            assert found[name].null_count == PARENT + CHILD
    else:
        assert found["held_out_verdict"].equals(found["verdict"])
        np.testing.assert_allclose(numbers(found, "held_out_r"), numbers(found, "r"), atol=1e-9)


@pytest.mark.parametrize(("least", "half"), [(1, 1), (2, 1), (9, 5), (10, 5)])
def test_half_of_the_tokens_are_enough_in_half_of_the_documents(least, half):
    assert Limits(threshold=0.8, min_active=least).half_active == half


def test_who_lives_in_the_held_out_half(edge):
    """Features fire on about 80 of the 400 tokens: of 70 that are asked for, 35 in the half."""
    limits = Limits(threshold=0.7, min_active=70)
    found = judge_features(edge.files, correlated(edge.files.own), (), [None, None], HALF, limits).features
    counts = set()
    for name, dense in zip(("parent", "child"), edge.own, strict=True):
        active, inside = (dense > 0).sum(0), (dense[HELD_OUT[document_of()]] > 0).sum(0)
        lives = [word is not None for word in side(found, name)["held_out_verdict"].to_pylist()]
        assert lives == ((active >= 70) & (inside >= 35)).tolist()
        counts |= set(inside[active >= 70] < 70)
    assert True in counts


# --- edges whose answer is known -----------------------------------------------------------------------------


def living(dense):
    return (dense > 0).sum(0) >= LIMITS.min_active


def test_a_copy_with_the_same_dictionary_keeps_everything(edge):
    """A copy of a model, the same dictionary: what each side reads is the same, r = 1, whatever changes at all is kept."""
    own = edge.files.own[0]
    copy = Activations([own, own], [own, own])
    directions = [directions_of()[0]] * 2
    stable = stable_of(0, PARENT)
    found = judge_features(copy, correlated(copy.own), directions, [stable, stable], HALF, LIMITS)
    changes = np.ptp(edge.own[0], axis=0) > 0
    for name in ("parent", "child"):
        table = side(found.features, name)
        r = numbers(table, "r")
        assert np.abs(r[changes] - 1).max() <= 1e-12
        kept = pc.equal(table["verdict"], "kept").to_pylist()
        assert [kept[k] for k in np.flatnonzero(living(edge.own[0]) & changes)] == [True] * int(
            (living(edge.own[0]) & changes).sum()
        )
        here = living(edge.own[0]) & changes
        assert numbers(table, "match")[here].tolist() == np.flatnonzero(here).tolist()
        assert np.abs(numbers(table, "match_r")[here] - 1).max() <= 1e-12
        assert {table["direction"][int(k)].as_py() for k in np.flatnonzero(here)} == {"same"}
        np.testing.assert_allclose(numbers(table, "best_cosine"), 1, atol=1e-12)
    assert found.cosines["pw_mcc"] == pytest.approx(1, abs=1e-12)
    assert found.cosines["mean_max_cosine"] == pytest.approx(1, abs=1e-12)


def test_a_copy_with_the_second_dictionary_matches_as_the_ceiling_does(edge):
    """A copy of a model whose dictionary is the model's second one: everything is kept, and matching says what the ceiling says."""
    one, two = edge.files.own
    files = Activations([one, two], [one, two])
    table = correlated(files.own, 0.05)
    directions = directions_of()
    alive = [living(dense) for dense in edge.own]
    stability = measure_stability(
        {0: Dictionary(one, alive[0], directions[0]), 1: Dictionary(two, alive[1], directions[1])},
        {(0, 1): table}, document_of(), ~HELD_OUT, LIMITS.threshold,
    )  # fmt: skip
    stables = [
        Stable(*(others(stability.features, seed, name, len(alive[seed])) for name in ("r", "judged_r")), 0.5)
        for seed in (0, 1)
    ]
    found = judge_features(files, table, directions, stables, HALF, LIMITS)
    pairs = {(("model", 0), ("model", 1)): sides(table, *alive)}
    for place, (name, row) in enumerate(
        zip(("parent", "child"), measure_ceiling(pairs, LIMITS.threshold).to_pylist(), strict=True)
    ):
        judged = side(found.features, name)
        changes = np.ptp(edge.own[place], axis=0) > 0
        assert judged.filter(pa.array(alive[place] & changes))["verdict"].to_pylist() == ["kept"] * int(
            (alive[place] & changes).sum()
        )
        match_r = numbers(judged, "match_r")
        assert (match_r[alive[place]] > LIMITS.threshold).mean() == row["share"]
        assert 0 < row["share"] < 1
        assert margin(match_r, stables[place].r, alive[place]) == 0
        assert numbers(judged, "margin").tolist() == [0.0] * len(alive[place])
    assert found.cosines == {name: stability.cosines["pairs"][0][name] for name in ("pw_mcc", "mean_max_cosine")}


def test_verdicts_do_not_depend_on_blocks(edge, monkeypatch):
    tables = []
    for block, few in itertools.product((29, 5000), (4, 0)):
        monkeypatch.setattr(reader, "BLOCK", block)
        monkeypatch.setattr(bootstrap, "FEW", few)
        tables.append(judge_features(edge.files, correlated(edge.files.own), (), [None, None], HALF, LIMITS).features)
    for table in tables[1:]:
        assert table["verdict"].equals(tables[0]["verdict"]) and table["held_out_verdict"].equals(
            tables[0]["held_out_verdict"]
        )
        np.testing.assert_allclose(numbers(table, "held_out_r"), numbers(tables[0], "held_out_r"), atol=1e-12)


def test_a_childs_dictionary_alone_looks_back(edge):
    """Of a root that has none: what the child's features do on it is what they do there beside a dictionary of the root."""
    files = Activations(edge.files.own[1:], edge.files.other[1:], ["child"])
    found = judge_features(files, None, (), [None], HALF, LIMITS).features
    both = side(
        judge_features(edge.files, correlated(edge.files.own), (), [None, None], HALF, LIMITS).features, "child"
    )
    assert found["side"].to_pylist() == ["child"] * CHILD
    for name in (*DRIFT.names, "held_out_r"):
        assert found[name].equals(both[name])
    kept = [word == "kept" for word in both["verdict"].to_pylist()]
    assert [word == "kept" for word in found["verdict"].to_pylist()] == kept and "found" not in found[
        "verdict"
    ].to_pylist()
