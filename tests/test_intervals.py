"""Replicates of verdicts: each counted by hand on the tokens of the documents that it draws."""

import numpy as np
import pyarrow.compute as pc
import pytest
from edge import CHILD, PARENT, correlation, document_of, make_edge, matched, redraw, word
from test_verdicts import HELD_OUT, correlated, side, stable_of

from feature_lineage.features import activations as reader
from feature_lineage.flow import bootstrap
from feature_lineage.flow import intervals as module
from feature_lineage.flow.bootstrap import sample_documents
from feature_lineage.flow.intervals import REPLICATES, Drawn, bootstrap_verdicts
from feature_lineage.flow.verdicts import VERDICTS, Activations, Half, Limits, Stable, judge_features

LIMITS = Limits(threshold=0.7, min_active=10)
COUNT = 12


def drawn_documents(count=COUNT):
    """Documents of the whole and of the held-out half, as often as each replicate draws them."""
    corpus = np.zeros(len(HELD_OUT), int)
    held_out = np.zeros((len(corpus), count), int)
    held_out[HELD_OUT] = sample_documents(corpus[HELD_OUT], count, seed=5)
    return Drawn(document_of(), sample_documents(corpus, count, seed=5), held_out)


@pytest.fixture
def edge(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "MARGIN", 2.0)  # every pair is a candidate in every replicate
    monkeypatch.setattr(reader, "BLOCK", 97)
    return make_edge(tmp_path)


def judged_of(files, table, stables, limits=LIMITS):
    return judge_features(files, table, (), stables, Half(document_of(), HELD_OUT), limits).features


def by_hand(edge, place, drawn, chosen, least, found=True, limits=LIMITS):
    """Living features and those of each verdict on the tokens drawn; matches are among what lives in the sample."""
    own, other = redraw(edge.own[place], drawn), redraw(edge.other[place], drawn)
    alive = [(dense > 0).sum(0) >= limits.min_active for dense in edge.own]
    match_r = matched(*(redraw(dense, drawn) for dense in edge.own), *alive)[place][1]
    words = []
    for feature, (x, y) in enumerate(zip(own.T, other.T, strict=True)):
        if chosen[feature] and (x > 0).sum() >= least:
            words.append(word(correlation(x, y), match_r[feature] if found else np.nan, limits.threshold))
    return [len(words), *(words.count(name) for name in VERDICTS)]


def rows(table, name, features):
    part = side(table, name).filter(pc.equal(side(table, name)["features"], features))
    return [list(row.values())[2:] for row in part.to_pylist()]


@pytest.mark.parametrize(("few", "min_active"), [(1 << 24, 10), (0, 10), (1 << 24, 70)])
def test_each_replicate_is_counted_on_repeated_documents(edge, monkeypatch, few, min_active):
    """Features fire on about 80 of the 400 tokens: where 70 are asked for, some are dead in some replicates."""
    monkeypatch.setattr(bootstrap, "FEW", few)
    limits = Limits(threshold=0.7, min_active=min_active)
    table, drawn = correlated(edge.files.own), drawn_documents()
    judged = judged_of(edge.files, table, [stable_of(0, PARENT), stable_of(1, CHILD)], limits)
    found = bootstrap_verdicts(edge.files, table, judged, drawn, limits)
    assert found.schema == REPLICATES and found.num_rows == 2 * 2 * COUNT
    seen = set()
    for place, name in enumerate(("parent", "child")):
        features = len(edge.own[place].T)
        stable = np.array([bool(value) for value in side(judged, name)["reproducible"].to_pylist()])
        stable &= (edge.own[place] > 0).sum(0) >= min_active
        assert 0 < stable.sum() < features
        for group, documents, chosen, least in (
            ("all", drawn.whole, np.ones(features, bool), min_active),
            ("reproducible", drawn.held_out, stable, min_active // 2),
        ):
            expected = [
                [k, *by_hand(edge, place, documents[:, k], chosen, least, limits=limits)]
                for k in range(documents.shape[1])
            ]
            assert rows(found, name, group) == expected
            assert all(row[1] == sum(row[2:]) for row in expected)
            seen |= {(group, tuple(row[1:])) for row in expected}
    assert len(seen) > 12


@pytest.mark.parametrize("memory", [8 * 200 * 2, 8 * 200 * 8])
def test_replicates_in_turns_are_the_same(edge, monkeypatch, memory):
    """More turns than replicates, and fewer."""
    table, drawn = correlated(edge.files.own), drawn_documents()
    judged = judged_of(edge.files, table, [stable_of(0, PARENT), stable_of(1, CHILD)])
    whole = bootstrap_verdicts(edge.files, table, judged, drawn, LIMITS)
    monkeypatch.setattr(module, "MEMORY", memory)
    assert bootstrap_verdicts(edge.files, table, judged, drawn, LIMITS).equals(whole)


def test_every_document_once_is_the_sample_itself(edge):
    table = correlated(edge.files.own)
    judged = judged_of(edge.files, table, [stable_of(0, PARENT), stable_of(1, CHILD)])
    drawn = Drawn(document_of(), np.ones((len(HELD_OUT), 1), int), HELD_OUT[:, None].astype(int))
    found = bootstrap_verdicts(edge.files, table, judged, drawn, LIMITS)
    for name in ("parent", "child"):
        part = side(judged, name)
        words = part["verdict"].to_pylist()
        living = len(words) - words.count(None)
        assert rows(found, name, "all") == [[0, living, *(words.count(one) for one in VERDICTS)]]
        stable = part.filter(pc.and_(part["reproducible"], pc.is_valid(part["verdict"])))[
            "held_out_verdict"
        ].to_pylist()
        counts = [stable.count(one) for one in VERDICTS]
        assert rows(found, name, "reproducible") == [[0, sum(counts), *counts]]


def test_a_placebo_is_drawn_like_an_edge(edge):
    """The same draws; nothing is found, and its other counts are those of the same dictionary."""
    files = Activations(edge.files.own[:1], edge.files.other[:1], ["parent"])
    drawn = drawn_documents()
    found = bootstrap_verdicts(files, None, judged_of(files, None, [stable_of(0, PARENT)]), drawn, LIMITS)
    assert set(found["side"].to_pylist()) == {"parent"} and found.num_rows == 2 * COUNT
    everything = np.ones(PARENT, bool)
    assert rows(found, "parent", "all") == [
        [k, *by_hand(edge, 0, drawn.whole[:, k], everything, 10, found=False)] for k in range(COUNT)
    ]
    assert not found["found"].to_numpy().any()


ALONE = Stable(np.zeros((PARENT, 0)), np.zeros((PARENT, 0)), None)  # a dictionary without another one of its model


@pytest.mark.parametrize("stables", [[None, None], [stable_of(0, PARENT), None], [ALONE, None]])
def test_without_a_second_dictionary_all_features_alone_are_counted(edge, stables):
    table = correlated(edge.files.own)
    found = bootstrap_verdicts(edge.files, table, judged_of(edge.files, table, stables), drawn_documents(), LIMITS)
    assert set(found["features"].to_pylist()) == {"all"} and found.num_rows == 2 * COUNT


def test_of_an_empty_half_nothing_lives(edge):
    table = correlated(edge.files.own)
    judged = judged_of(edge.files, table, [stable_of(0, PARENT), stable_of(1, CHILD)])
    drawn = drawn_documents()._replace(held_out=np.zeros((len(HELD_OUT), COUNT), int))
    found = bootstrap_verdicts(edge.files, table, judged, drawn, LIMITS)
    for name in ("parent", "child"):
        assert rows(found, name, "reproducible") == [[k, 0, 0, 0, 0, 0] for k in range(COUNT)]
        assert sum(row[1] for row in rows(found, name, "all")) > 0


def test_without_replicates_there_is_no_row(edge):
    table = correlated(edge.files.own)
    judged = judged_of(edge.files, table, [None, None])
    found = bootstrap_verdicts(edge.files, table, judged, drawn_documents(0), LIMITS)
    assert found.equals(REPLICATES.empty_table())


def test_an_edge_and_its_placebo_are_compared_draw_by_draw(edge):
    """A copy as child: in each replicate what is kept is what lives and changes there, so the difference to itself is 0."""
    files = Activations(edge.files.own, edge.files.own)
    table, drawn = correlated(files.own), drawn_documents()
    once = bootstrap_verdicts(files, table, judged_of(files, table, [None, None]), drawn, LIMITS)
    placebo = Activations(files.own[:1], files.other[:1], ["parent"])
    again = bootstrap_verdicts(placebo, None, judged_of(placebo, None, [None]), drawn, LIMITS)
    assert side(once, "parent").select(["living", "kept"]).equals(again.select(["living", "kept"]))
    for k, (_, living, kept, *_) in enumerate(rows(again, "parent", "all")):
        tokens = redraw(edge.own[0], drawn.whole[:, k])
        assert kept == ((np.ptp(tokens, axis=0) > 0) & ((tokens > 0).sum(0) >= 10)).sum()
        assert kept <= living
