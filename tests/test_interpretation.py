"""Excerpts, questions and scores against dense float64 copies, and whole interpretations through a scripted endpoint."""

import json
import math
import re
from contextlib import closing
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats
from scripted_endpoint import KEY, KEY_ENV, completion, serve, service, status
from test_feature_tokens import write_activations

from feature_lineage.errors import InputError
from feature_lineage.explanations import estimate, transport
from feature_lineage.explanations import excerpts as excerpts_module
from feature_lineage.explanations import prompts as prompts_module
from feature_lineage.explanations import questions as questions_module
from feature_lineage.explanations import scores as interpretation
from feature_lineage.explanations import verdict as verdict_module
from feature_lineage.explanations.client import Endpoint
from feature_lineage.explanations.excerpts import OTHERS, PERSISTING, Chosen
from feature_lineage.explanations.ledger import Ledger
from feature_lineage.explanations.questions import Answer, Malformed, Reply
from feature_lineage.explanations.scores import INTERPRETATIONS
from feature_lineage.features import activations as feature_activations
from feature_lineage.flow.fates import LINEAGES
from feature_lineage.report.figures import plot_scores
from feature_lineage.text.vocabulary import Texts

LENGTH, WINDOWS, VOCABULARY, FEATURES = 24, 240, 50, 10


@pytest.fixture(scope="module")
def sample():
    """Two corpora of 120 windows with documents of very unequal length, and activations: feature f likes token f, the last is dead."""
    random = np.random.default_rng(0)
    tokens = random.integers(VOCABULARY, size=(WINDOWS, LENGTH))
    corpus = np.repeat([0, 1], WINDOWS // 2)
    ends = [np.sort(random.choice(WINDOWS // 2 * LENGTH, 30, replace=False)), np.array([100, 2600])]
    position = np.arange(WINDOWS // 2 * LENGTH).reshape(-1, LENGTH)
    document = np.concatenate([np.searchsorted(end, position, side="right") for end in ends])
    dense = (random.random((tokens.size, FEATURES)) < 0.03) * random.exponential(0.3, (tokens.size, FEATURES))
    dense[tokens.ravel()[:, None] == np.arange(FEATURES)] += 3
    dense[:, -1] = 0
    return tokens, corpus, document, dense.astype(np.float32)


@pytest.fixture
def gathered(sample, tmp_path, monkeypatch):
    """A function that gathers evidence, reading a few activations at a time."""
    tokens, corpus, document, dense = sample
    path = write_activations(tmp_path / "a.parquet", dense)
    side = excerpts_module.halves(corpus, document, 0)

    def gather(features, seed=0, piece=777):
        monkeypatch.setattr(feature_activations, "PIECE", piece)
        return excerpts_module.gather(path, dense.max(0).astype(float), features, tokens, side, seed)

    return gather, side


def located(sample, excerpts, feature):
    """Window of each excerpt: its tokens and activations stand there, and random tokens stand nowhere else."""
    tokens, _, _, dense = sample
    values = dense[:, feature].reshape(tokens.shape)
    spread = np.lib.stride_tricks.sliding_window_view
    text, active = spread(tokens, excerpts_module.EXCERPT, 1), spread(values, excerpts_module.EXCERPT, 1)
    windows = []
    for row, activations in zip(*excerpts, strict=True):
        (window,), (start,) = np.nonzero((text == row).all(2))
        np.testing.assert_array_equal(active[window, start], activations)
        windows.append(window)
    return windows


# --- features and windows ----------------------------------------------------------------------------------


def test_sides_are_halves_that_share_no_document_but_the_longest(sample):
    _, corpus, document, _ = sample
    side = excerpts_module.halves(corpus, document, 3)
    for number in (0, 1):
        assert 0.4 <= side[corpus == number].mean() <= 0.6
    assert not np.array_equal(side, excerpts_module.halves(corpus, document, 4))
    for number, one in set(zip(corpus.tolist(), document[:, 0].tolist(), strict=True)):
        rows = (corpus == number) & (document[:, 0] == one)
        if rows.sum() <= WINDOWS // 2 // excerpts_module.UNITS:
            assert len(set(side[rows])) == 1
    assert set(side[(corpus == 1) & (document[:, 0] == 1)]) == {0, 1}, (
        "a document that is nearly all of its corpus is cut"
    )


def lineage(feature, fates=(), chain=False, origin="base", model="base", seed=0):
    fates = [{"child": "c", "fate": fate, "descendant": 1, "r": 0.9} for fate in fates]
    chain = [{"model": "p", "feature": 1, "r": 0.9}] * chain
    return dict(model=model, seed=seed, feature=feature, density=0.1, origin=origin, chain=chain, fates=fates)


def test_features_are_chosen_equally_of_both_fates_and_stay_chosen():
    rows = [lineage(f, ["persisting", "disappearing"] if f < 30 else ["disappearing"] * 2) for f in range(100)]
    rows += [
        lineage(100, ["dead"], origin=None),
        lineage(101, ["persisting"], model="other"),
        lineage(102, ["persisting"], seed=1),
    ]
    table = pa.Table.from_pylist(rows, LINEAGES)
    shares = pa.table({"token_share": pa.array([0.95 if f % 2 else None for f in range(103)])})
    found = {n: excerpts_module.choose(table, shares, "base", 0, n, 5) for n in (20, 40, 80, "all")}
    for count, persisting, others in ((20, 10, 10), (40, 20, 20), (80, 30, 40), ("all", 30, 70)):
        fates = [one.fate for one in found[count]]
        assert (fates.count(PERSISTING), fates.count(OTHERS)) == (persisting, others)
        assert all((one.feature < 30) == (one.fate == PERSISTING) for one in found[count])
        assert all(one.single_token == bool(one.feature % 2) for one in found[count])
    assert all(set(few) <= set(more) for few, more in pairwise(found.values()))
    assert [one.fate for one in found[20]] == [PERSISTING, OTHERS] * 10, "a budget that ends early ends for both alike"
    assert [one.fate for one in found["all"]] == [PERSISTING, OTHERS] * 30 + [OTHERS] * 40
    assert found[20] != excerpts_module.choose(table, shares, "base", 0, 20, 6)


def test_in_a_model_without_children_what_came_from_a_parent_persists():
    table = pa.Table.from_pylist(
        [lineage(0, chain=True, origin="p"), lineage(1), lineage(2, ["disappearing"], True)], LINEAGES
    )
    shares = pa.table({"token_share": pa.array([None, 0.5, 0.5], pa.float64())})
    assert {one.feature: one.fate for one in excerpts_module.choose(table, shares, "base", 0, "all", 0)} == {
        0: PERSISTING, 1: OTHERS, 2: OTHERS
    }  # fmt: skip


# --- excerpts ----------------------------------------------------------------------------------------------


def test_excerpts_are_pieces_of_the_sample_and_the_two_sides_share_no_window(sample, gathered):
    gather, side = gathered
    for one in gather([4, 0, 9]):
        for which, excerpts in enumerate((one.explain, one.score)):
            windows = located(sample, excerpts, one.feature)
            assert len(set(windows)) == len(windows) and set(side[windows]) == {which}
            assert len(windows) <= excerpts_module.TOP + 2 * 10 + excerpts_module.RANDOM + excerpts_module.ELSEWHERE
        assert one.maximum == sample[3][:, one.feature].max()


def test_excerpts_are_the_highest_two_of_each_tenth_random_ones_and_the_strongest_tokens_elsewhere(
    sample, gathered, monkeypatch
):
    gather, side = gathered
    peaks = sample[3].reshape(WINDOWS, LENGTH, FEATURES).max(1)
    monkeypatch.setattr(excerpts_module, "RANDOM", 0)
    for elsewhere in (0, 10):
        monkeypatch.setattr(excerpts_module, "ELSEWHERE", elsewhere)
        for one in gather(range(9)):
            peak = peaks[:, one.feature]
            band = np.minimum(10 * peak / peak.max(), 9).astype(int)
            for which, excerpts in enumerate((one.explain, one.score)):
                mine = np.flatnonzero((side == which) & (peak > 0))
                order = mine[np.argsort(-peak[mine], kind="stable")]
                top, rest = order[: excerpts_module.TOP], order[excerpts_module.TOP :]
                windows = located(sample, excerpts, one.feature)
                assert set(top) <= set(windows)
                shown = dict(zip(windows, excerpts.activations.max(1), strict=True))
                assert all(shown[window] == peak[window] for window in top)
                found = np.bincount(band[[w for w in windows if w not in top]], minlength=10)
                wanted = np.minimum(np.bincount(band[rest], minlength=10), 2)
                if elsewhere:
                    assert (found >= wanted).all() and found.sum() > wanted.sum()
                    strong = {sample[0][w, sample[3][:, one.feature].reshape(WINDOWS, LENGTH)[w].argmax()] for w in top}
                    others = [row for w, row in zip(windows, excerpts.tokens, strict=True) if w not in top]
                    assert sum(bool(strong & set(row.tolist())) for row in others) >= elsewhere
                else:
                    np.testing.assert_array_equal(found, wanted)


def test_excerpts_of_a_feature_depend_on_no_other_and_not_on_how_the_file_is_read(gathered):
    gather, _ = gathered
    many, one, other = gather([1, 4, 7]), gather([4], piece=10**6), gather([4], seed=1)
    np.testing.assert_equal(many[1], one[0])
    assert not np.array_equal(one[0].explain.tokens, other[0].explain.tokens)


def test_a_feature_that_never_fires_has_random_excerpts_and_no_features_none(gathered):
    gather, _ = gathered
    (one,) = gather([9])
    assert (
        one.explain.tokens.shape == (excerpts_module.RANDOM, excerpts_module.EXCERPT)
        and not one.score.activations.any()
    )
    assert gather([]) == []


def test_token_means_are_those_of_the_other_side(sample, gathered):
    gather, side = gathered
    tokens, dense = sample[0], sample[3].astype(np.float64)
    for one in gather([2, 5, 4]):
        values = dense[:, one.feature].reshape(tokens.shape)[side == 0]
        other = tokens[side == 0]
        expected = [[values[other == token].mean() for token in row] for row in one.score.tokens]
        np.testing.assert_allclose(one.token_means, expected, rtol=1e-12)


def test_a_token_unseen_on_the_other_side_is_given_the_mean_of_all(sample, tmp_path):
    tokens, corpus, document, dense = sample
    side = excerpts_module.halves(corpus, document, 0)
    tokens = np.where((side == 1)[:, None] & (tokens == 4), VOCABULARY, tokens)
    path = write_activations(tmp_path / "a.parquet", dense)
    (one,) = excerpts_module.gather(path, dense.max(0).astype(float), [4], tokens, side, 0)
    unseen = one.score.tokens == VOCABULARY
    mean = dense[:, 4].astype(float).reshape(tokens.shape)[side == 0].mean()
    assert unseen.any()
    np.testing.assert_allclose(one.token_means[unseen], mean)


def test_activations_of_another_sample_are_refused(sample, gathered, tmp_path):
    tokens, _, _, dense = sample
    path = write_activations(tmp_path / "b.parquet", dense[:-LENGTH])
    with pytest.raises(InputError, match=r"b\.parquet: has 5,736 tokens, the sample 5,760"):
        excerpts_module.gather(path, dense.max(0), [4], tokens, gathered[1], 0)


# --- questions and replies ---------------------------------------------------------------------------------


def test_activations_are_quantised_as_published():
    np.testing.assert_array_equal(
        prompts_module.quantised(np.array([-1, 0, 0.19, 0.2, 0.21, 1.999, 2.0, 3.0]), 2.0), [0, 0, 0, 1, 1, 9, 10, 10]
    )


def reply(text, *tokens):
    return Reply(text, list(tokens))


def test_a_simulation_is_read_from_its_text():
    for text in ("1\t0\n2\t10\n3\t2.5", " 2: 10\n1: 0 \n\n3: 2.5\r\n", "```\n1\t0\n2\t10\n3\t2.5\n```"):
        np.testing.assert_array_equal(prompts_module.read_simulation(reply(text), 3), [0, 10, 2.5])


@pytest.mark.parametrize(
    "text",
    ["", "1\t0\n2\t3", "1\t0\n2\t3\n2\t3", "1\t0\n2\t3\n3\t11", "1\t0\n2\tx\n3\t1", "1\t0\n2\t3\n3\t1\n4\t1", "0 3 1",
     "Here you are:\n1\t0\n2\t3\n3\t1", "1\t0\n2\t-3\n3\t1", "1\t0\n2\tnan\n3\t1"],
)  # fmt: skip
def test_a_simulation_that_is_not_a_number_for_each_token_is_malformed(text):
    with pytest.raises(Malformed):
        prompts_module.read_simulation(reply(text), 3)


def test_where_there_are_log_probabilities_a_number_is_their_expected_value():
    numbers = {"2": math.log(0.5), "10": math.log(0.25), "11": math.log(0.2)}  # 11 is no activation
    tokens = [
        ("1", {}),
        ("\t", {}),
        ("2", numbers),
        ("\n", {}),
        ("2", {"9": -1}),
        ("\t7", {"7": -0.1}),
        ("\n3\t", {}),
        ("1", {"1": 0}),
        ("0", {}),
    ]
    found = prompts_module.read_simulation(reply("1\t2\n2\t7\n3\t10", *tokens), 3)
    np.testing.assert_allclose(
        found, [(2 * 0.5 + 10 * 0.25) / 0.75, 7, 10], err_msg="10 in two tokens is read from the text"
    )


@pytest.mark.parametrize("p", [1000.0, float("inf"), float("nan")])
def test_a_log_probability_that_is_none_ends_nothing(p):
    (value,) = prompts_module.read_simulation(reply("1\t4", ("1\t", {}), ("4", {"4": p})), 1)
    assert value == 4


def test_a_detection_is_a_json_list():
    for text in ("[2, 4]", "```json\n[4,2]\n```", "Snippets: [2, 4, 4]"):
        np.testing.assert_array_equal(prompts_module.read_detection(reply(text), 4), [False, True, False, True])
    assert not prompts_module.read_detection(reply("[]"), 4).any()
    for text in ("", "2, 4", "[5]", "[0]", "[1,,2]", "none"):
        with pytest.raises(Malformed):
            prompts_module.read_detection(reply(text), 4)


@pytest.mark.parametrize(
    "thoughts", ["<think>\nOf [1, 3], then?\n1\t9\n</think>\n\n", "So [3]?\n</think>\n", "<thinking>so</thinking> \n"]
)
def test_thoughts_that_an_endpoint_leaves_in_the_text_are_no_answer(thoughts):
    """They were taken for the explanation, and a list in them for the answer. Cut off before their end, there is none."""
    assert prompts_module.read_explanation(reply(f"{thoughts}Names of <think> tags.")) == "Names of <think> tags."
    assert prompts_module.read_detection(reply(f"{thoughts}[2]"), 4).tolist() == [False, True, False, False]
    found = prompts_module.read_simulation(
        reply(f"{thoughts}1\t2", (thoughts, {}), ("1\t", {}), ("2", {"2": 0, "4": 0})), 1
    )
    assert found.tolist() == [3]
    assert prompts_module.read_explanation(reply("The tag </think> of XML")) == "The tag </think> of XML"
    for read in (prompts_module.read_explanation, lambda one: prompts_module.read_detection(one, 4)):
        with pytest.raises(Malformed):
            read(reply("<think>\nIt may be [1], or"))


def test_prompts_show_tokens_on_one_line_and_scoring_prompts_no_activation(sample, gathered):
    raw = ["\n", "\t", '"', "\\", " é", "$x", "</x>", *"abcdefg" * 7]
    texts = list(map(prompts_module.written, raw))
    assert texts[:6] == ["\\n", "\\t", '"', "\\\\", " é", "$x"]
    (one,) = gathered[0]([4])
    prompt = prompts_module.explain_prompt(one, raw)
    lines = re.findall(r"^(.+)\t(\d+)$", prompt.user, re.MULTILINE)
    assert len(lines) == one.explain.tokens.size
    assert sorted(int(level) for _, level in lines) == sorted(
        prompts_module.quantised(one.explain.activations, one.maximum).ravel()
    )
    first = [int(level) for _, level in lines[: excerpts_module.EXCERPT]]
    assert max(first) == max(int(level) for _, level in lines), "the strongest excerpt comes first"
    prompt = prompts_module.simulate_prompt("numbers $x", one.score.tokens[:3], raw)
    numbered = re.findall(r"^(\d+)\t(.+)$", prompt.user, re.MULTILINE)
    assert [(int(n), text) for n, text in numbered] == [
        (i, texts[t]) for i, t in enumerate(one.score.tokens[:3].ravel(), 1)
    ]
    assert "numbers $x" in prompt.user and prompt.logprobs
    assert (
        len(re.findall(r"^\d+\t", prompts_module.detect_prompt("x", one.score.tokens[:3], raw).user, re.MULTILINE)) == 3
    )


def test_prompts_show_pieces_of_one_character_as_the_character():
    """Explained with the strongest of their levels, simulated with one number, whose value is that of each piece.

    Of that kind and tried: pieces of one byte and of several; a character cut by the end of an excerpt and by its beginning; all three
    prompts, and the simulation that comes back.
    """
    texts = Texts([b"a", *(bytes([byte]) for byte in "日\n".encode()), "é".encode(), b"\xe6\x97"])
    tokens = np.array([[0, 1, 2, 3, 5, 0, 6, 3, 4], [2, 3, 0, 0, 5, 5, 0, 1, 2]])
    activations = np.array([[0, 0, 3, 1, 0, 0, 0, 10, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0.0]])
    read = [["a", "日", "é", "a", "日", "\\n"], ["\ufffd", "\ufffd", "a", "a", "é", "é", "a", "\ufffd"]]
    excerpts = excerpts_module.Excerpts(tokens, activations)
    evidence = excerpts_module.Evidence(0, 10.0, excerpts, excerpts, activations)
    explained = prompts_module.explain_prompt(evidence, texts).user
    assert "a\t0\n日\t3\né\t0\na\t0\n日\t10\n\\n\t0" in explained
    assert [
        line.split("\t")[1] for line in prompts_module.detect_prompt("x", tokens, texts).user.splitlines()[-2:]
    ] == ["".join(row) for row in read]
    prompt = prompts_module.simulate_prompt("x", tokens, texts)
    assert re.findall(r"^(\d+)\t(.+)$", prompt.user, re.MULTILINE) == [
        (str(number), text) for number, text in enumerate([*read[0], *read[1]], 1)
    ]
    said = np.arange(14.0)
    ask = lambda prompt, parse, guess: Answer(said if len(guess) == 14 else None, None, 0, 0, 0.0)  # noqa: E731
    found, _ = interpretation._simulate("x", excerpts, texts, ask)
    spread = [0, 1, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 13]
    assert found["pearson"] == pytest.approx(np.corrcoef(spread, activations.ravel())[0, 1])


# --- scores ------------------------------------------------------------------------------------------------


def test_correlations_are_those_of_scipy_and_none_where_there_is_none():
    random = np.random.default_rng(1)
    for _ in range(20):
        a, b = random.integers(4, size=(2, 5, 9)).astype(float)
        assert interpretation.pearson(a, b) == pytest.approx(stats.pearsonr(a.ravel(), b.ravel())[0], abs=1e-12)
        assert interpretation.spearman(a, b) == pytest.approx(stats.spearmanr(a.ravel(), b.ravel())[0], abs=1e-12)
    assert interpretation.pearson(np.full(9, 0.1), random.random(9)) is None
    assert interpretation.spearman(random.random(9), np.zeros(9)) is None


def test_balanced_accuracy_by_hand():
    said, true = np.array([1, 1, 0, 1, 0, 0], bool), np.array([1, 1, 1, 0, 0, 0], bool)
    assert interpretation.balanced_accuracy(said, true) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert interpretation.balanced_accuracy(np.ones(6, bool), np.arange(6) < 5) == 0.5


# --- through an endpoint -----------------------------------------------------------------------------------

TEXTS = [f"t{token}" for token in range(VOCABULARY)]
CHOSEN = [Chosen(0, PERSISTING, True), Chosen(1, PERSISTING, False), Chosen(2, PERSISTING, False),
          Chosen(3, OTHERS, False), Chosen(4, OTHERS, False), Chosen(9, OTHERS, False)]  # fmt: skip


def oracle(body, number):
    """A language model that finds the token on which activations are high, and trusts explanations."""
    user = body["messages"][1]["content"]
    if "What does the feature respond to?" in user:
        lines = re.findall(r"^(t\d+)\t(\d+)$", user, re.MULTILINE)
        mean = pd.Series([int(level) for _, level in lines]).groupby([token for token, _ in lines]).mean()
        return completion(f"The token {mean.idxmax()}.", 50, 5)
    (token,) = re.findall(r"^The token (t\d+)\.$", user, re.MULTILINE)
    if "JSON" in body["messages"][0]["content"]:
        return completion(
            json.dumps(
                [
                    int(n)
                    for n, text in re.findall(r"^(\d+)\t(.+)$", user, re.MULTILINE)
                    if re.search(rf"{token}(?!\d)", text)
                ]
            ),
            70,
            7,
        )
    return completion(
        "\n".join(f"{n}\t{10 * (text == token)}" for n, text in re.findall(r"^(\d+)\t(.+)$", user, re.MULTILINE)), 60, 6
    )


@pytest.fixture
def interpreted(gathered, tmp_path, monkeypatch):
    """A function that interprets `CHOSEN` by a script; rows by feature."""
    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setattr(transport, "FIRST_WAIT", 0.01)
    evidence = gathered[0]([one.feature for one in CHOSEN])

    def interpret_once(server, **changes):
        with closing(Ledger(tmp_path / "replies.jsonl")) as ledger:
            rows = interpretation.interpret_features(
                CHOSEN, evidence, TEXTS, Endpoint(service(server.url, **changes), ledger)
            )
            server.spent = ledger.spent
        pa.Table.from_pylist(rows, INTERPRETATIONS)
        return {row["feature"]: row for row in rows}

    def interpret(script, **changes):
        with serve(script) as server:
            return interpret_once(server, **changes), server, evidence

    interpret.once = interpret_once
    return interpret


def test_features_are_explained_and_scored_and_the_shuffled_explanations_are_worse(interpreted):
    rows, server, evidence = interpreted(oracle)
    assert list(rows) == [one.feature for one in CHOSEN]
    for feature in range(5):
        row = rows[feature]
        assert row["explanation"] == f"The token t{feature}." and row["reason"] is None
        score = evidence[feature].score
        expected = stats.pearsonr((score.tokens == feature).ravel(), score.activations.ravel())[0]
        assert row["simulation"] == pytest.approx(expected) and row["simulation"] > 0.5
        other = {0: 1, 1: 2, 2: 0, 3: 4, 4: 3}[feature]  # the next of the same fate
        expected = stats.pearsonr((score.tokens == other).ravel(), score.activations.ravel())[0]
        assert row["shuffled"] == pytest.approx(expected) and row["shuffled"] < 0.2
        rho = stats.spearmanr(evidence[feature].token_means.ravel(), score.activations.ravel())[0]
        assert row["token_mean_spearman"] == pytest.approx(rho)
        assert row["detection"] > 0.5
        assert row["cost_usd"] == pytest.approx((row["prompt_tokens"] + row["completion_tokens"]) / 1e6)
        assert (row["fate"], row["single_token"]) == (CHOSEN[feature].fate, feature == 0)
    assert (
        "explanation: never active" in rows[9]["reason"]
        and rows[9]["simulation"] is None
        and rows[9]["token_mean"] is None
    )
    assert sum(row["cost_usd"] for row in rows.values()) == pytest.approx(server.spent), "each reply is one feature's"
    assert rows[9]["cost_usd"] == 0


def test_faults_lose_no_score(interpreted):
    def faulty(body, number):
        faults = (status(429, Retry_After="0.02"), status(500), {"drop": True}, {"raw": b"<html>"})
        return faults[number // 2 % 4] if number % 2 == 0 and number < 60 else oracle(body, number)

    broken, server, _ = interpreted(faulty)
    assert all(row["simulation"] is not None for feature, row in broken.items() if feature < 5)
    assert sum(server.paid.values()) < len(server.bodies)


def test_what_cannot_be_scored_is_missing_with_its_reason_and_a_constant_simulation_is_a_zero(interpreted):
    """A simulation that is the same at every token tells nothing about the feature: left out, it would leave the good ones alone.

    The same for `shuffled` and, in the next test, for the baseline. Where the true activations are constant there is no score.
    """

    def dull(body, number):
        text = oracle(body, number)["choices"][0]["message"]["content"]
        feature = re.search(r"The token t(\d+)\.", body["messages"][1]["content"])
        kind = feature and int(feature[1])
        if kind == 1:
            text = re.sub(r"\t\d+", "\t0", text)
        if kind == 3:
            text = "I cannot do that."
        return completion(text)

    rows, _, _ = interpreted(dull)
    assert rows[1]["simulation"] == rows[1]["simulation_spearman"] == rows[0]["shuffled"] == 0
    assert rows[3]["simulation"] is None and rows[3]["detection"] is None and rows[4]["shuffled"] is None
    assert "simulation: malformed reply, 3 times" in rows[3]["reason"] and "detection: malformed" in rows[3]["reason"]
    assert rows[2]["simulation"] > 0.5 and rows[2]["reason"] is None
    assert all(rows[f]["cost_usd"] > 0 for f in range(5))


def test_a_constant_prediction_of_the_baseline_is_a_zero_and_constant_activations_have_no_score(gathered):
    (one,) = gathered[0]([4])
    flat = one._replace(token_means=np.full(one.token_means.shape, 0.3))
    assert interpretation.baseline(CHOSEN[4], flat)["token_mean"] == 0
    same = one._replace(score=one.score._replace(activations=np.full(one.score.activations.shape, 2.0)))
    row = interpretation.baseline(CHOSEN[4], same)
    assert row["token_mean"] is None and row["reason"] == "token_mean: constant activations where it is scored"


def test_what_the_features_cost_adds_up_to_what_was_billed(interpreted):
    """Features with one explanation share their questions, a feature's control may be another's own simulation.

    Also tried: failed requests that were billed, malformed replies, a second run of the same ledger.
    """

    def alike(body, number):
        if number == 3:
            return {"error": {"message": "late", "code": 502}, "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
        found = oracle(body, number)
        if "What does the feature respond to?" in body["messages"][1]["content"]:
            return completion("The token t1.", 50, 5)
        return found if number % 7 else completion("?", 8, 2)

    with serve(alike) as server:
        for _ in range(2):
            rows = interpreted.once(server, parallel=1)
            assert {row["explanation"] for row in rows.values()} == {"The token t1.", None}
            assert sum(row["cost_usd"] for row in rows.values()) == pytest.approx(server.spent, rel=1e-9)
            tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows.values())
            assert tokens / 1e6 == pytest.approx(server.spent)
        assert 40 > len(server.bodies) > 10 and set(server.paid.values()) <= {1, 2}


def test_what_two_equal_features_ask_is_charged_to_the_first(gathered):
    (one,) = gathered[0]([4])
    asked = set()

    def ask(prompt, parse, guess):
        asked.add(prompt)
        return Answer(guess, None, 10, 1, 1e-3)  # as the ledger has it, however often it is asked

    twins = [CHOSEN[4], CHOSEN[4]._replace(feature=77)]
    rows = interpretation.interpret(twins, [one, one], TEXTS, "m", ask, lambda f, items: list(map(f, items)))
    assert rows[1]["cost_usd"] == 0 and sum(row["cost_usd"] for row in rows) == pytest.approx(len(asked) * 1e-3)


def test_detection_and_explanation_call_the_same_activations_active(sample, gathered):
    """An activation below a tenth of the maximum is shown as 0: to the reader of an explanation it is none."""
    (one,) = gathered[0]([4])
    weak = one.score.activations.copy()
    rows = np.flatnonzero(weak.max(1) > 0.1 * one.maximum)
    weak[rows[::2]] *= 0.099 * one.maximum / weak[rows[::2]].max(1, keepdims=True)  # still above 0
    one = one._replace(score=one.score._replace(activations=weak))
    shown = prompts_module.quantised(weak, one.maximum).any(1)
    np.testing.assert_array_equal(prompts_module.active(one.score, one.maximum), shown)
    assert (weak.any(1) & ~shown).sum() >= 5
    asked = []

    def ask(prompt, parse, guess):
        numbered = re.findall(r"^\d+\t(.+)$", prompt.user, re.MULTILINE)
        truth = {"".join(TEXTS[t] for t in row): is_on for row, is_on in zip(one.score.tokens, shown, strict=True)}
        asked.append([truth[text] for text in numbered])
        reply = json.dumps([n for n, is_on in enumerate(asked[-1], 1) if is_on])
        return questions_module.Answer(parse(Reply(reply, [])), None, 0, 0, 0.0)

    scores, reason = interpretation._detect("x", one, TEXTS, ask)
    assert scores == {"detection": 1.0} and reason is None and set(asked[0]) == {True, False}
    silent = one._replace(explain=one.explain._replace(activations=one.explain.activations * 1e-3))
    (row,) = interpretation.interpret([CHOSEN[4]], [silent], TEXTS, "m", ask, lambda f, items: list(map(f, items)))
    assert "explanation: never active in the excerpts to be explained" in row["reason"] and len(asked) == 1


def malformed(kind):
    def script(body, number):
        user = body["messages"][1]["content"]
        explains = "What does the feature respond to?" in user
        detects = "JSON" in body["messages"][0]["content"]
        return (
            completion("x " * 3000 if kind == "explanations" else "I cannot")
            if (explains if kind == "explanations" else not explains and not detects)
            else oracle(body, number)
        )

    return script


@pytest.mark.parametrize("kind", ["explanations", "simulations"])
def test_a_model_of_which_nothing_can_be_read_is_asked_no_more(interpreted, monkeypatch, kind):
    """Five questions of a kind, three replies each, and not one readable. A second run sends nothing at all."""
    monkeypatch.setattr(interpretation, "HOPELESS", 3)
    with serve(malformed(kind)) as server:
        for _ in range(2):
            with pytest.raises(
                InputError, match=rf"interpretation\.model: 3 {kind} by 'scripted'.*malformed.*another model"
            ):
                interpreted.once(server, parallel=1)
            assert len(server.bodies) <= {"explanations": 3 * 3, "simulations": 5 + 2 * 7}[kind]


@pytest.mark.parametrize(
    "step",
    [
        completion("I cannot"),
        completion(None, finish="content_filter"),
        status(400, "no", "content_filter"),
        completion("1", choices=[]),
        {"error": {"message": "overloaded"}},
        {"raw": b"<html>"},
    ],
    ids=["words", "filter", "refused", "no choice", "error", "page"],
)
def test_a_run_that_read_nothing_fails(interpreted, step):
    """Nothing at all, or explanations and then nothing that can be scored: the table would be empty, and the exit status 0."""
    for first in (step, None):

        def script(body, number, first=first):
            return first or (oracle(body, number) if "What does" in body["messages"][1]["content"] else step)

        with pytest.raises(InputError, match=r"could be (scored|read)|did not answer 8 times"):
            interpreted(script)


def test_a_prompt_refused_or_an_explanation_that_cannot_be_written_down_costs_its_feature_alone(interpreted):
    def filtered(body, number):
        found = oracle(body, number)
        text = found["choices"][0]["message"]["content"]
        if text == "The token t1.":
            return status(400, "filtered", "content_filter")
        return completion("half \ud800") if text == "The token t3." else found

    rows, _, _ = interpreted(filtered)
    assert "explanation: the endpoint refuses the prompt: content_filter" in rows[1]["reason"]
    assert "explanation: malformed reply, 3 times: text that is not valid Unicode" in rows[3]["reason"]
    assert rows[1]["cost_usd"] == 0 and rows[1]["token_mean"] is not None
    assert all(rows[feature]["simulation"] > 0.5 for feature in (0, 2, 4))


def test_a_budget_too_small_sends_nothing_and_one_that_runs_out_leaves_reasons(interpreted, monkeypatch):
    with pytest.raises(InputError, match=r"interpretation\.budget_usd"):
        interpreted(oracle, budget=1e-4)
    monkeypatch.setattr(estimate.Estimate, "check", lambda self: None)
    rows, server, _ = interpreted(oracle, budget=0.004)
    assert any("budget_usd is spent" in (row["reason"] or "") for row in rows.values())
    assert sum(server.paid.values()) == len(server.bodies) > 0


def test_a_budget_that_ends_half_way_leaves_scores_on_both_sides_and_is_told(gathered, tmp_path, monkeypatch, caplog):
    """Endings from the first request to the last: the two sides differ by one feature at most, and log and verdict say what is missing."""
    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setattr(estimate.Estimate, "check", lambda self: None)
    rows = [lineage(f, ["persisting" if f < 4 else "disappearing"]) for f in range(8)]
    shares = pa.table({"token_share": pa.array([None] * 8, pa.float64())})
    chosen = excerpts_module.choose(pa.Table.from_pylist(rows, LINEAGES), shares, "base", 0, "all", 0)
    evidence = gathered[0]([one.feature for one in chosen])
    seen = set()
    with serve(oracle) as server:
        for number, budget in enumerate(np.linspace(0.0035, 0.014, 10)):
            caplog.clear()
            ledger = Ledger(tmp_path / str(number) / "replies.jsonl")
            asked = Endpoint(service(server.url, budget=float(budget), parallel=1), ledger)
            found = pd.DataFrame(interpretation.interpret_features(chosen, evidence, TEXTS, asked))
            ledger.close()
            scored = found.groupby("fate")["simulation"].count()
            assert abs(scored[PERSISTING] - scored[OTHERS]) <= 1
            seen.add(int(scored.sum()))
            cut = int(found["reason"].fillna("").str.contains("budget_usd is spent").sum())
            text = verdict_module.verdict(found)
            if cut:
                told = rf"nterpretation\.budget_usd ended before {cut} of 8 features had all their scores \(\d persisting and \d not "
                assert re.search(told, text) and re.search(told, caplog.text)
            else:
                assert "budget_usd" not in text + caplog.text
    assert 8 in seen and len(seen) > 3


# --- what it comes to --------------------------------------------------------------------------------------


def table(simulation, token_mean, shuffled=None, model="m", **more):
    count = len(token_mean)
    columns = {name: [None] * count for name in INTERPRETATIONS.names} | more
    columns |= {"simulation": simulation, "token_mean": token_mean, "shuffled": shuffled or [None] * count}
    columns |= {
        "model_used": [model] * count,
        "single_token": [False] * count,
        "fate": ([PERSISTING, OTHERS] * count)[:count],
    }
    return pa.table(columns, schema=INTERPRETATIONS).to_pandas()


def test_the_verdict_compares_pairs_and_says_who_wins():
    good, bad = [0.7, 0.8, 0.6, 0.75, None], [0.3, 0.35, 0.31, 0.2, 0.99]
    text = verdict_module.verdict(table(good, bad, [0.1] * 5))
    assert "m beat the token-statistics baseline" in text and "0.71 against 0.29 over the same 4 features" in text
    assert "difference of +0.42" in text and "They beat another feature's explanation: " in text
    assert "0.71 against 0.10" in text and "no score" not in text
    interval = stats.ttest_rel(good[:4], bad[:4]).confidence_interval(0.95)
    assert f"{interval.low:+.2f} to {interval.high:+.2f}" in text
    text = verdict_module.verdict(table(good, bad, explanation=["x"] * 5))
    assert text.endswith("1 of 5 explained features have no score and are left out.") and "another feature" not in text
    assert "do worse than" in verdict_module.verdict(table(bad, [0.7, 0.8, 0.6, 0.75, 1.0]))
    assert "do not beat" in verdict_module.verdict(table([0.1, 0.5, 0.3, 0.4], [0.2, 0.4, 0.35, 0.3]))


def test_few_scores_of_many_features_are_no_victory():
    """Three good scores of 24 features say that 21 could not be scored. The same for the shuffled control alone."""
    found = table([0.9, 0.8, 0.95, *[None] * 21], [0.3] * 24, [0.1] * 24, explanation=["x"] * 24)
    text = verdict_module.verdict(found)
    assert " beat " not in text and text.count("on too few features to compare them (3 of 24)") == 2
    found = table([0.9, 0.8] * 12, [0.3] * 24, [0.1, 0.1, 0.15, *[None] * 21])
    text = verdict_module.verdict(found)
    assert "m beat the token-statistics baseline" in text and "They could be scored beside another feature's" in text


def test_a_verdict_of_one_side_says_so():
    found = table([0.9, None, 0.8, None, 0.7, None], [0.3] * 6)
    assert "No not persisting feature has a score" in verdict_module.verdict(found)
    found = table([None, 0.9, None, 0.8, None, 0.7], [0.3] * 6)
    assert "No persisting feature has a score" in verdict_module.verdict(found)
    assert "has a score" not in verdict_module.verdict(table([0.9, 0.8, 0.7, 0.6], [0.3] * 4))


def test_simulations_that_count_as_nothing_are_told():
    text = verdict_module.verdict(table([0.0, 0.9, 0.0, 0.8], [0.3, 0.2, 0.3, 0.2]))
    assert "2 of 4 simulations are the same at every token and count as 0." in text


def test_features_of_one_lineage_are_one_sample():
    """A feature that four models have in common says one thing and not four: the interval is that of the lineages."""
    random = np.random.default_rng(0)
    good, bad = random.normal(0.5, 0.3, 12), random.normal(0.4, 0.3, 12)
    once = verdict_module.verdict(table(good.tolist(), bad.tolist()))
    four = table(np.repeat(good, 4).tolist(), np.repeat(bad, 4).tolist(), model="m")
    often = verdict_module.verdict(four.assign(family=np.repeat(np.arange(12), 4)))
    between = re.search(r"95 % interval (\S+ to \S+)\)", once)[1]
    assert f"95 % interval {between})" in often and "48 scored features belong to 12 lineages" in often
    assert f"95 % interval {between})" not in verdict_module.verdict(four), "what an interval over features would say"


def test_the_interval_of_clusters_of_unequal_size_is_the_sandwich_and_covers():
    """Against the sandwich estimator written out as matrices; and on samples drawn, 95 % of the intervals hold the mean."""
    random = np.random.default_rng(1)
    cluster = np.repeat(np.arange(20), random.integers(1, 6, 20))
    held = 0
    for _ in range(400):
        values = random.normal(0, 1, 20)[cluster] + random.normal(0, 0.3, len(cluster))
        low, high = verdict_module._interval(pd.Series(values), pd.Series(cluster))
        held += low <= 0 <= high
        x = np.ones((len(values), 1))
        bread = np.linalg.inv(x.T @ x)
        scores = np.array([x[cluster == c].T @ (values - values.mean())[cluster == c] for c in range(20)])
        variance = (bread @ (scores.T @ scores) @ bread * 20 / 19)[0, 0]
        assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 19) * variance**0.5)
    assert 0.92 <= held / 400 <= 0.98


def test_the_lineage_of_a_feature_is_where_its_chain_begins():
    rows = [lineage(3), lineage(7, chain=True, model="child"), lineage(1, model="p")]
    found = verdict_module.families(pa.Table.from_pylist(rows, LINEAGES))
    assert found == {("base", 0, 3): "base/0/3", ("child", 0, 7): "p/0/1", ("p", 0, 1): "p/0/1"}


def test_without_a_language_model_or_with_too_few_scores_the_verdict_says_so():
    alone = table([None] * 3, [0.5, 0.6, None], model=None)
    assert "No language model was asked" in verdict_module.verdict(
        alone
    ) and "0.55 over 2 features" in verdict_module.verdict(alone)
    assert "too few features to compare them (1)" in verdict_module.verdict(table([0.5, None], [0.4, 0.3]))
    assert verdict_module.verdict(alone.iloc[:0]) == "No feature was scored."


def test_the_figure_shows_each_score_measured_by_fate():
    one, other = table([0.5, -0.2, 0.55, None], [0.31, 0.32, 0.9, 1.0]), table([0.1], [0.2])
    figure = plot_scores({"base": one, "lua": other})
    assert len(figure.data) == 2 * 2 * 3  # simulation and baseline, two models, three groups
    first = figure.data[0]
    assert first.name == "persisting" and list(first.customdata[-5:]) == [2, 0, 0, 0, 0]
    np.testing.assert_allclose(sum(first.y), 1)
    alone = plot_scores({"base": table([None] * 2, [0.1, 1.0], model=None)})
    assert len(alone.data) == 3 and "no language model" in alone.layout.title.text
    assert sum(sum(trace.customdata) for trace in alone.data) == 2
