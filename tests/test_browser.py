import json
import re

import pyarrow as pa
import pytest
from reports import EVIL, EVIL_TOKEN, FLOW, IMAGE_TOKEN, NEEDLE, SIZE, content, some

from feature_lineage.meaning.main_token import TOKENS
from feature_lineage.report.browser import (
    SHARD,
    Browsed,
    Features,
    _without,
    read_features,
    write_browser,
    write_script,
)
from feature_lineage.store.formats import write_table


def read(path):
    name, text = re.fullmatch(r"lineage\((\"[^\"]*\"),(.*)\);\n", path.read_text("ascii"), re.DOTALL).groups()
    assert json.loads(name) == path.stem
    return json.loads(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    names = write_browser(folder, some(Browsed, content()), ["base", "lua"])
    assert names["corpora"] == ["prose", "code"]
    assert sorted(names["categories"]) == ["indentation and line breaks", "punctuation", "word"]
    (folder / "categories.json").write_text(json.dumps(names["categories"]))
    return folder


def test_an_index_and_shards_for_each_autoencoder(folder):
    names = {path.name for path in folder.glob("*.js")}
    shards = range(-(-SIZE // SHARD))
    expected = {f"{m}.seed0.{k}.js" for m in ("base", "lua") for k in shards}
    assert names == expected | {"base.seed0.js", "lua.seed0.js"}
    assert [len(read(folder / f"lua.seed0.{k}.js")["max"]) for k in shards] == [SHARD, SIZE - SHARD]


def test_index_says_fates_matches_and_origins(folder):
    base, lua = (read(folder / f"{model}.seed0.js") for model in ("base", "lua"))
    (down,), (up,) = base["edges"], lua["edges"]
    assert (down["side"], up["side"]) == ("parent", "child")
    assert down["fate"][:7] == [1, 2, 2, 2, 2, 2, 1] and up["fate"][:7] == [1, 3, 3, 3, 3, 3, 1]
    assert (down["fate"][-1], down["match"][-1], down["r"][-1]) == (0, -1, None)
    assert (up["match"][6], up["r"][6], up["r"][1]) == (6, 0.9, 0.3)
    assert lua["origin"][:2] == [0, 1] and lua["via"][:2] == [0, -1] and lua["origin"][-1] == -1


def test_index_says_verdicts_what_is_new_and_what_is_reproducible(folder):
    base, lua = (read(folder / f"{model}.seed0.js") for model in ("base", "lua"))
    (down,), (up,) = base["edges"], lua["edges"]
    assert down["verdict"][:7] == up["verdict"][:7] == [0, 2, 3, 3, 3, 3, 1] and down["verdict"][-1] == -1
    assert down["drift"][:3] == [0.95, 0.65, 0.1] and down["drift"][-1] is None
    assert base["new"] == [-1] * SIZE and lua["new"][:2] == [0, 1] and lua["new"][-1] == -1
    assert base["reproducible"][:4] == [1, 0, 0, 1]


def test_index_without_other_seeds_knows_of_no_reproducible_feature(tmp_path):
    given = content()
    place = FLOW.names.index("reproducible")
    given["flow"] = given["flow"].set_column(place, FLOW.field(place), pa.nulls(len(given["flow"]), pa.bool_()))
    write_browser(tmp_path, some(Browsed, given), ["base", "lua"])
    assert read(tmp_path / "base.seed0.js")["reproducible"] == [-1] * SIZE


def test_details_have_the_evidence_of_a_verdict_and_what_became_of_the_feature(folder):
    base = read(folder / "base.seed0.0.js")
    # direction, cosines of decoder and encoder with the match, highest cosine, margin, verdict on the held-out half
    assert base["evidence"][0][6] == ["same", 0.5, None, None, -0.25, "found"]
    assert base["evidence"][0][12] == ["rotated", 0.5, None, None, -0.25, "found"]
    assert base["traced"][6] == [[1, "found", 6, 0.95]] and base["traced"][1] == [[1, "drifted", None, 0.95]]
    last = read(folder / "base.seed0.1.js")
    assert len(last["evidence"][0]) == SIZE - SHARD and last["evidence"][0][-1] == [None] * 6
    assert last["traced"][-1] == [] and read(folder / "lua.seed0.0.js")["traced"][6] == []


def test_index_says_tokens_categories_and_scores(folder):
    lua = read(folder / "lua.seed0.js")
    categories = json.loads((folder / "categories.json").read_text())
    assert lua["tokens"][5] == [EVIL_TOKEN, IMAGE_TOKEN] and lua["tokens"][270] == [NEEDLE] and lua["tokens"][-1] == []
    assert [categories[k] for k in lua["category"][:3]] == ["punctuation", "indentation and line breaks", "word"]
    assert lua["category"][-1] == -1
    assert [k for k, single in enumerate(lua["single"]) if single] == [7]
    assert set(lua["interpretations"]) == {"5", "6"}
    assert lua["interpretations"]["5"]["simulation"] == 0.5
    assert "simulation" not in lua["interpretations"]["6"], "what is missing is not zero"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"explanation": "verbs", "reason": None, "model_used": "m"}, []),
        ({"reason": None, "model_used": None}, ["No language model was asked for an explanation."]),
        (
            {"reason": "token_mean: constant activations where it is scored", "model_used": None},
            [
                "No language model was asked for an explanation.",
                "No score of the token statistics: constant activations where it is scored.",
            ],
        ),
        (
            {"reason": "explanation: the endpoint refuses the prompt: content_filter", "model_used": "m"},
            ["No explanation: the endpoint refuses the prompt: content_filter."],
        ),
        (
            {
                "explanation": "verbs",
                "model_used": "m",
                "reason": "simulation: malformed; 3 times: a; b; shuffled: no other",
            },
            [
                "No score of the simulation: malformed; 3 times: a; b.",
                "No score of the shuffled explanation: no other.",
            ],
        ),
        (
            {"model_used": "m", "reason": "token_mean: x; explanation: y"},
            ["No explanation: y.", "No score of the token statistics: x."],
        ),
        ({"reason": "no answer", "model_used": "m"}, ["No explanation: no answer."]),
        ({"reason": None, "model_used": "m"}, ["No explanation."]),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(row, expected):
    """A feature without an explanation read "None: token_mean: ...", as if that were the explanation."""
    assert _without({"explanation": None} | row) == expected


def test_details_are_those_of_the_feature(folder):
    shard = read(folder / "lua.seed0.1.js")
    k = 270 - SHARD
    assert shard["contexts"][k] == [[1, [5, 6, 7], [1, 2], [2.0, 0.5]]]  # window 270 % 4 of the second corpus
    assert shard["promoted"][k] == [[NEEDLE, 0.25]] and shard["suppressed"][k] == [[EVIL_TOKEN, -0.5]]
    assert shard["chain"][k] == [[0, 270, 0.9]]
    assert shard["contexts"][-1] == [] and shard["category_share"][-1] is None


def test_texts_cannot_end_a_script(tmp_path):
    write_script(tmp_path / "texts.js", "texts", [EVIL, "\u2028", '");alert(1);("'])
    assert read(tmp_path / "texts.js") == [EVIL, "\u2028", '");alert(1);("']


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_script(tmp_path / "x.js", "x", [float("nan")])


def test_tables_are_read_one_autoencoder_after_another(tmp_path):
    given = content()["features"]
    paths = {name: [] for name in Features._fields[2:]}
    for one in given[:1]:
        for name in paths:
            if name != "interpretations":
                table = getattr(one, name)
                write_table(tmp_path / f"{name}.parquet", table, table.schema, {})
                paths[name].append(tmp_path / f"{name}.parquet")
    (found,) = read_features([("base", 0)], paths)
    assert found.interpretations is None and found.tokens.schema.equals(TOKENS)
    assert found.contexts.to_pylist() == given[0].contexts.to_pylist()
