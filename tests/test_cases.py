"""Hypotheses, the features that they describe and their way down the lineage, against dense copies and by hand."""

import json

import numpy as np
import pyarrow as pa
import pytest
from reports import LINEAGES
from test_feature_tokens import sparse_activations, write_activations

from feature_lineage.errors import InputError
from feature_lineage.features import activations as feature_activations
from feature_lineage.flow.fates import Edge, trace
from feature_lineage.meaning.cases import TRACKING, Fates, Model, feature_hypothesis, find_case, matching_tokens
from feature_lineage.meaning.contexts import CONTEXTS, collect_contexts
from feature_lineage.meaning.tracking import Sample, follow, measure, support, survey
from feature_lineage.store.formats import write_table

TEXTS = ["<|endoftext|>", "=", " =", " ==", " Except", "except", "12", " é", "\n", " IF", " ,", " a1", "self"]
EDGES = [("base", "left"), ("base", "right"), ("left", "both"), ("right", "both")]
WINDOWS, LENGTH, COUNT = 80, 6, 8


def a_sample(seed=0):
    random = np.random.default_rng(seed)
    tokens = random.integers(0, len(TEXTS), (WINDOWS, LENGTH))
    corpus = np.repeat([0, 1], WINDOWS // 2)
    return Sample(tokens, corpus, ["prose", "code"], TEXTS, np.arange(len(TEXTS)) == 0)


SAMPLE = a_sample()
EVERYWHERE = np.ones(WINDOWS, bool)


# --- hypotheses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"tokens": ["=", " =", "absent"]}, ["=", " ="]),
        ({"pattern": r"\s*=+"}, ["=", " =", " =="]),
        ({"pattern": "=| ="}, ["=", " ="]),  # of the whole token
        ({"pattern": "(?i) ?except"}, [" Except", "except"]),
        ({"pattern": ".*endof.*|self"}, ["self"]),  # a special token is none of the text's
        ({"characters": "digits"}, ["12"]),
        ({"characters": "letters"}, [" Except", "except", " é", " IF", "self"]),
        ({"characters": "lowercase"}, ["except", " é", "self"]),
        ({"characters": "uppercase"}, [" IF"]),
        ({"characters": "punctuation"}, ["=", " =", " ==", " ,"]),
        ({"characters": "whitespace"}, ["\n"]),
    ],
)
def test_a_hypothesis_is_a_set_of_tokens(case, expected):
    assert [TEXTS[token] for token in matching_tokens("it", case, SAMPLE, EVERYWHERE)] == expected


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ({"tokens": ["Except"]}, r"cases\.it: no token of the sample is \"Except\".*' Except'"),
        ({"tokens": ["=  "]}, r"no token of the sample is \"=  \".*'='"),
        ({"tokens": ["zebra"]}, "alike are: none"),
        ({"pattern": "cep"}, "' Except'"),
    ],
)
def test_a_hypothesis_without_tokens_names_some_that_are_alike(case, said):
    with pytest.raises(InputError, match=said):
        matching_tokens("it", case, SAMPLE, EVERYWHERE)


def test_tokens_outside_of_the_corpora_are_not_in_the_sample():
    prose = SAMPLE.corpus == 0
    tokens = np.where((SAMPLE.tokens == 5) & prose[:, None], 6, SAMPLE.tokens)
    with pytest.raises(InputError, match="no token of the sample"):
        matching_tokens("it", {"tokens": ["except"]}, SAMPLE._replace(tokens=tokens), prose)


def test_a_features_own_hypothesis_is_its_fewest_tokens():
    masses = np.zeros(40)
    masses[[3, 20, 7]] = 50, 40, 10
    assert feature_hypothesis(masses).tolist() == [3, 20]  # 90 % exactly
    masses[7] = 11
    assert feature_hypothesis(masses).tolist() == [3, 20, 7]
    assert feature_hypothesis(np.ones(40)).tolist() == list(range(10))  # never more than ten
    assert feature_hypothesis(np.eye(1, 40, 5)[0]).tolist() == [5]


# --- measures ----------------------------------------------------------------------------------------------


def dense_support(activation, hit, inside):
    """Precision, recall and score of activations [windows, length]."""
    mass = activation[inside].sum()
    precision = activation[hit].sum() / mass if mass else 0
    recall = np.count_nonzero(activation[hit]) / np.count_nonzero(hit)
    return precision, recall, precision and 1.25 * precision * recall / (0.25 * precision + recall)


@pytest.mark.parametrize("inside", [EVERYWHERE, SAMPLE.corpus == 1], ids=["all", "code"])
def test_support_is_that_of_a_dense_copy(tmp_path, inside):
    dense = sparse_activations(0, SAMPLE.tokens.size, COUNT)
    dense[:, 3] = 0
    dense[:, 4] *= ~np.isin(SAMPLE.tokens.ravel(), [1, 2])
    path = write_activations(tmp_path / "a.parquet", dense)
    hit = np.isin(SAMPLE.tokens, [1, 2]) & inside[:, None]
    cube = dense.T.astype(np.float64).reshape(COUNT, WINDOWS, LENGTH)
    expected = np.array([dense_support(one, hit, inside) for one in cube]).T
    assert expected[0, 3] == expected[0, 4] == 0 < expected[2, 5]
    np.testing.assert_allclose(survey(path, SAMPLE, np.array([1, 2]), inside), expected)
    columns = [(path, feature) for feature in range(COUNT)]
    found = measure(columns, SAMPLE, np.array([1, 2]), inside, [])
    np.testing.assert_allclose(found.support, expected)
    weights = [[one[inside][SAMPLE.tokens[inside] == token].sum() for token in range(len(TEXTS))] for one in cube]
    np.testing.assert_allclose(found.masses, weights)


@pytest.mark.parametrize("block", [7, 100, 1 << 14])
def test_tracked_features_are_correlated_exactly(tmp_path, monkeypatch, block):
    dense = sparse_activations(1, SAMPLE.tokens.size, 4)
    dense[:, 1] += dense[:, 0]
    other = sparse_activations(2, SAMPLE.tokens.size, 3)
    other[:, 0] = 1000 + dense[:, 0] / 1000  # nearly constant
    other[:, 1] = 0
    paths = [write_activations(tmp_path / f"{name}.parquet", values) for name, values in (("a", dense), ("b", other))]
    monkeypatch.setattr(feature_activations, "BLOCK", block)
    columns = [(paths[0], 1), (paths[1], 2), (paths[0], 0), (paths[1], 0), (paths[1], 1)]
    windows = [11, 0, 79]
    found = measure(columns, SAMPLE, None, EVERYWHERE, windows)
    values = np.stack([dense[:, 1], other[:, 2], dense[:, 0], other[:, 0], other[:, 1]]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.correlations, np.corrcoef(values), rtol=1e-9, atol=1e-12)
    assert np.isnan(found.correlations[4]).all()
    np.testing.assert_array_equal(found.shown, values.reshape(5, WINDOWS, LENGTH)[:, windows])


def test_one_occurrence_does_not_make_a_case():
    # a feature on one "=" of a hundred; one on all of them and as much on others; one on most of them and little else; one on all tokens
    mass, on, fired = np.array([9.0, 100, 50, 1000]), np.array([9.0, 50, 45, 20]), np.array([1, 100, 80, 100])
    precision, recall, score = support(mass, on, fired, 100)
    assert precision.argmax() == 0
    assert recall[[1, 3]].tolist() == [1, 1]
    assert score.argmax() == 2
    assert score[0] < 0.05


# --- tracking ----------------------------------------------------------------------------------------------


def fates(pairs, count=4):
    """The table of `fates.trace` of best matches: {(parent, child): [(feature, feature, r), …]}."""
    edges = []
    for (parent, child), rows in pairs.items():
        a, b, r = zip(*rows, strict=True)
        table = pa.table({"feature_a": np.array(a), "feature_b": np.array(b), "r": np.array(r, float)})
        edges.append(Edge(parent, child, np.ones(count), np.ones(count), table))
    models = ["base", "left", "right", "both", "late"]
    return trace(edges, dict.fromkeys(models, np.ones(count)), models, 0.8, 0).features


PATHS = {
    ("base", "left"): [(0, 1, 0.9), (0, 2, 0.3)],
    ("base", "right"): [(0, 3, 0.4), (1, 3, 0.95)],
    ("left", "both"): [(1, 2, 0.7), (3, 0, 0.9)],
    ("right", "both"): [(3, 1, 0.85)],
}


def test_a_feature_is_followed_down_every_edge_and_through_the_merge():
    nodes = follow(fates(PATHS), EDGES, "base", 0, 0)
    assert [tuple(node) for node in nodes] == [
        ("base", 0, None, None, None, True),
        ("left", 1, "base", 0.9, "persisting", True),
        ("right", 3, "base", 0.4, "disappearing", True),
        ("both", 2, "left", 0.7, "disappearing", False),
        ("both", 1, "right", 0.85, "persisting", True),
    ]


def test_below_a_merge_the_kept_feature_is_followed():
    late = PATHS | {("both", "late"): [(1, 0, 0.9), (2, 3, 0.9)]}
    assert follow(fates(late), [*EDGES, ("both", "late")], "base", 0, 0)[-1][:3] == ("late", 0, "both")


def test_of_two_equal_paths_the_first_is_kept_and_a_path_may_end():
    equal = PATHS | {("right", "both"): [(3, 1, 0.7)]}
    assert [(node.feature, node.kept) for node in follow(fates(equal), EDGES, "base", 0, 0)[3:]] == [
        (2, True),
        (1, False),
    ]
    ended = PATHS | {("base", "right"): [(1, 3, 0.95)]}
    assert [node.model for node in follow(fates(ended), EDGES, "base", 0, 0)] == ["base", "left", "both"]
    assert [node.model for node in follow(fates(PATHS), EDGES[3:], "right", 3, 0)] == ["right", "both"]


# --- a case ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    """Four models; "=" and " =" are planted as feature 5 of base, 2 of left, 0 of right and 4 of both. Feature 6 of base fires on one."""
    folder = tmp_path_factory.mktemp("lineage")
    random = np.random.default_rng(5)
    meant = np.isin(SAMPLE.tokens, [1, 2]).ravel()
    dense, models = {}, {}
    for number, (model, place, noise) in enumerate(
        (("base", 5, 0.1), ("left", 2, 0.2), ("right", 0, 0.6), ("both", 4, 0.2))
    ):
        values = sparse_activations(10 + number, SAMPLE.tokens.size, COUNT, share=0.05)
        values[:, place] = meant * (1 + random.random(meant.size)) + noise * values[:, place]
        if model == "base":
            values[:, 6] = np.arange(meant.size) == np.flatnonzero(meant)[3]
            values[:, 7] = 0
        dense[model] = values.astype(np.float32)
        activations = write_activations(folder / f"{model}.parquet", dense[model])
        table = collect_contexts(activations, SAMPLE.tokens.shape)
        write_table(folder / f"{model}-contexts.parquet", table, CONTEXTS, {})
        models[model] = Model(activations, folder / f"{model}-contexts.parquet")
    edges = []
    for parent, child in EDGES:
        with np.errstate(invalid="ignore"):
            r = np.corrcoef(dense[parent].T.astype(float), dense[child].T.astype(float))[:COUNT, COUNT:]
        a, b = np.nonzero(np.isfinite(r))
        table = pa.table({"feature_a": a, "feature_b": b, "r": r[a, b]})
        edges.append(Edge(parent, child, (dense[parent] > 0).mean(0), (dense[child] > 0).mean(0), table))
    densities = {model: (values > 0).mean(0) for model, values in dense.items()}
    tables = trace(edges, densities, list(dense), 0.8, 0)
    return dense, models, Fates(tables.features, with_traced(tables.lineages))


# What became of base's feature 5: kept in left, found again in both as another feature than the one that correlates best.
BECAME = [
    {"model": "left", "verdict": "kept", "feature": 5, "r": 0.9},
    {"model": "right", "verdict": "lost", "feature": None, "r": 0.1},
    {"model": "both", "verdict": "found", "feature": 3, "r": 0.85},
]


def with_traced(lineages):
    rows = [
        row | {"traced": BECAME if (row["model"], row["feature"]) == ("base", 5) else []}
        for row in lineages.to_pylist()
    ]
    return pa.Table.from_pylist(rows, LINEAGES)


def test_a_planted_hypothesis_is_found_and_followed(lineage):
    dense, models, flow = lineage
    found, table = find_case("it", {"tokens": ["=", " ="]}, SAMPLE, models, flow, EDGES, 0)
    nodes = {(node["model"], node["parent"]): node for node in found["nodes"]}
    planted = {"base": 5, "left": 2, "right": 0, "both": 4}
    assert {model: node["feature"] for (model, _), node in nodes.items()} == planted
    assert found["tokens"] == ["=", " ="]
    hit = np.isin(SAMPLE.tokens, [1, 2])
    assert found["occurrences"] == hit.sum()
    assert found["ceiling"] == pytest.approx(-np.log(hit.mean()))
    columns = {model: dense[model][:, place].astype(np.float64) for model, place in planted.items()}
    for (model, parent), node in nodes.items():
        precision, recall, score = dense_support(columns[model].reshape(WINDOWS, LENGTH), hit, EVERYWHERE)
        assert [node[key] for key in ("precision", "recall", "score")] == pytest.approx([precision, recall, score])
        assert node["ratio"] == pytest.approx(np.log(precision / hit.mean()))
        assert node["density"] == pytest.approx((columns[model] > 0).mean())
        if parent:
            r = np.corrcoef(columns[parent], columns[model])[0, 1]
            assert node["r"] == pytest.approx(r)
            assert node["fate"] == ("persisting" if r > 0.8 else "disappearing")
        first = node["contexts"][0]
        window = columns[model].reshape(WINDOWS, LENGTH)[columns[model].argmax() // LENGTH]
        np.testing.assert_allclose(first["activations"], window)
        shares = [entry["share"] for entry in node["top_tokens"]]
        assert {entry["text"] for entry in node["top_tokens"][:2]} == {"=", " ="} and shares == sorted(shares)[::-1]
    together = np.corrcoef(list(columns.values()))
    assert found["mean_correlation"] == pytest.approx(together[np.triu_indices(4, 1)].mean())
    for row in found["shared"]:
        assert len(row["activations"]) == len(found["nodes"]) == 5
    first = found["shared"][0]
    assert first["tokens"] == found["nodes"][0]["contexts"][0]["tokens"]
    assert first["activations"][0] == found["nodes"][0]["contexts"][0]["activations"]
    assert [node["kept"] for node in found["nodes"]].count(True) == 4
    json.dumps(found, allow_nan=False)
    assert table.schema == TRACKING
    assert table["r"].to_pylist() == [node["r"] for node in found["nodes"]]


def test_what_became_of_a_cases_first_feature_stands_beside_what_correlates_best(lineage):
    _, models, flow = lineage
    found, table = find_case("it", {"tokens": ["=", " ="]}, SAMPLE, models, flow, EDGES, 0)
    assert found["traced"] == BECAME
    told = {(row["model"], row["verdict"], row["traced"], row["traced_r"]) for row in table.to_pylist()}
    assert told == {
        ("base", None, None, None),
        *((one["model"], one["verdict"], one["feature"], one["r"]) for one in BECAME),
    }
    alone, table = find_case("it", {"feature": 2}, SAMPLE, {"both": models["both"]}, flow, EDGES, 0)
    assert alone["traced"] == [] and table["verdict"].to_pylist() == [None]


def test_a_feature_gives_its_tokens_and_is_followed_too(lineage):
    _, models, flow = lineage
    found, _ = find_case("it", {"feature": 5}, SAMPLE, models, flow, EDGES, 0)
    assert {"=", " ="} <= set(found["tokens"])
    assert found["nodes"][0]["feature"] == 5
    assert found["nodes"][0]["precision"] >= 0.9
    assert [node["feature"] for node in found["nodes"]] == [5, 2, 0, 4, 4]


def test_a_case_may_start_anywhere_and_count_one_corpus(lineage):
    dense, models, flow = lineage
    rest = {model: models[model] for model in ("left", "both")}
    case = {"pattern": " ?=", "corpora": ["code"]}
    found, _ = find_case("it", case, SAMPLE, rest, flow, EDGES, 0)
    code = SAMPLE.corpus == 1
    hit = np.isin(SAMPLE.tokens, [1, 2]) & code[:, None]
    assert found["share"] == pytest.approx(hit.sum() / (code.sum() * LENGTH))
    assert [(node["model"], node["feature"]) for node in found["nodes"]] == [("left", 2), ("both", 4)]
    expected = dense_support(dense["left"][:, 2].astype(float).reshape(WINDOWS, LENGTH), hit, code)
    assert found["nodes"][0]["precision"] == pytest.approx(expected[0])


def test_a_model_without_children_has_no_mean_correlation(lineage):
    _, models, flow = lineage
    found, _ = find_case("it", {"tokens": [" ="]}, SAMPLE, {"both": models["both"]}, flow, EDGES, 0)
    assert found["mean_correlation"] is None and found["correlations"] == [] and len(found["nodes"]) == 1


@pytest.mark.parametrize(("feature", "said"), [(7, "7 never fires in the sample"), (8, "8 is none of the 8 features")])
def test_a_feature_that_says_nothing_is_refused(lineage, feature, said):
    _, models, flow = lineage
    with pytest.raises(InputError, match=f"cases.it.feature: {said}"):
        find_case("it", {"feature": feature}, SAMPLE, models, flow, EDGES, 0)


def test_a_feature_that_is_silent_in_the_corpora_is_refused(lineage, tmp_path):
    dense, models, flow = lineage
    silent = dense["both"] * (np.repeat(SAMPLE.corpus, LENGTH) == 0)[:, None]
    both = models["both"]._replace(activations=write_activations(tmp_path / "a.parquet", silent))
    with pytest.raises(InputError, match=r"cases\.it\.corpora: feature 4 never fires in them"):
        find_case("it", {"feature": 4, "corpora": ["code"]}, SAMPLE, {"both": both}, flow, EDGES, 0)


def test_tokens_on_which_nothing_fires_are_refused(lineage, tmp_path):
    dense, models, flow = lineage
    silent = dense["both"] * (SAMPLE.tokens.ravel() != 8)[:, None]
    both = models["both"]._replace(activations=write_activations(tmp_path / "a.parquet", silent))
    with pytest.raises(InputError, match=r"cases\.it: no feature fires on a token of whitespace"):
        find_case("it", {"characters": "whitespace"}, SAMPLE, {"both": both}, flow, EDGES, 0)


def test_a_dead_feature_is_no_candidate(lineage):
    _, models, flow = lineage
    rows = flow.lineages.to_pylist()
    for row in rows:
        row["density"] *= (row["model"], row["feature"]) != ("base", 5)
    dead = flow._replace(lineages=pa.Table.from_pylist(rows, LINEAGES))
    found, _ = find_case("it", {"tokens": ["=", " ="]}, SAMPLE, models, dead, EDGES, 0)
    assert found["nodes"][0]["feature"] != 5


@pytest.mark.parametrize("case", [{"tokens": ["=", " ="]}, {"feature": 5}])
def test_a_study_without_edges_has_cases(lineage, case):
    _, models, flow = lineage
    alone = Fates(flow.features.slice(0, 0), flow.lineages)
    found, tracking = find_case("it", case, SAMPLE, {"base": models["base"]}, alone, [], 0)
    assert [node["feature"] for node in found["nodes"]] == tracking["feature"].to_pylist() == [5]
    assert found["mean_correlation"] is None
