"""Interpretations of the tiny study: by token statistics alone, and by a scripted language model whose key is nowhere."""

from __future__ import annotations

import zlib

import pandas as pd
import pytest
from scripted_endpoint import KEY, KEY_ENV, completion, serve
from test_interpretation import oracle

from feature_lineage.store.formats import read_json, read_provenance, read_table

MODELS = ("base", "coder", "writer", "both")
JOBS = {f"interpret_features {model} 0" for model in MODELS}


BASE = "results/tiny/interpretations/base/seed0.parquet"


def table(place, model="base"):
    return read_table(place.results / "interpretations" / model / "seed0.parquet").to_pandas()


def test_without_a_language_model_token_statistics_are_scored(study):
    found = pd.concat(table(study, model) for model in MODELS)
    assert len(found) > 20 and set(found["fate"]) == {"persisting", "not persisting"}
    assert (found["token_mean"].notna() != found["reason"].notna()).all()
    assert found["token_mean"].max() > 0.5
    assert found[["model_used", "simulation", "explanation"]].isna().all(axis=None) and (found["cost_usd"] == 0).all()
    assert "no language model" in read_json(study.results / "figures" / "scores.json")["layout"]["title"]["text"]
    assert not (study.results / "interpretations" / ".replies").exists()


@pytest.fixture(scope="module")
def asked(study, tmp_path_factory):
    """A model of the study interpreted by another: four features, then six, then four again with nobody to ask."""
    place = study.copy(tmp_path_factory.mktemp("asked") / "study")
    block = {"model": "scripted", "key_env": KEY_ENV, "budget_usd": 2.0, "prompt_price": 1.0, "completion_price": 1.0}
    story = {"place": place}
    with pytest.MonkeyPatch.context() as patch, serve(script) as server:
        patch.setenv(KEY_ENV, KEY)
        place.config["interpretation"] = block | {"base_url": server.url, "features": 4}
        story["plan"] = place.plan()
        story["run"] = place.snakemake("-c2", BASE)
        story["requests"], story["few"] = len(server.bodies), table(place)
        place.config["interpretation"]["features"] = 6
        story["more"] = place.snakemake("-c2", BASE)
        story |= {"keys": set(server.keys), "paid": server.paid}
    place.config["interpretation"]["features"] = 4
    story["again"] = place.snakemake("-c2", BASE)
    return story


def script(body, number):
    """Tokens of the tiny study have other names than those that `oracle` reads: each feature is explained by one that is nowhere."""
    user = body["messages"][1]["content"]
    if "What does the feature respond to?" in user:
        return completion(f"The token t{zlib.crc32(user.encode())}.")
    reply = oracle(body, number)
    text = reply["choices"][0]["message"]["content"]
    return completion(text.replace("\t0", "\t3", 1))  # not constant, so that there is a score


def test_a_language_model_named_reruns_interpretations_alone(asked):
    assert set(asked["plan"]) == JOBS | {"plot_scores", "tabulate_figures", "write_report"}
    assert asked["run"].code == 0, asked["run"]
    assert set(asked["few"]["model_used"]) == {"scripted"} and len(asked["few"]) == 4
    assert asked["few"]["simulation"].notna().any() and (asked["few"]["cost_usd"] > 0).any()
    assert (asked["few"]["simulation"].notna() | asked["few"]["reason"].notna()).all()
    assert "estimate: " in (asked["place"].results / "logs" / "interpret_features" / "base.seed0.log").read_text()


def test_more_features_pay_for_the_new_ones_alone_and_a_later_run_for_none(asked):
    assert asked["more"].code == 0, asked["more"]
    assert asked["keys"] == {f"Bearer {KEY}"}
    assert set(asked["paid"].values()) == {1} and len(asked["paid"]) > asked["requests"]
    assert asked["again"].code == 0, asked["again"]
    pd.testing.assert_frame_equal(table(asked["place"]), asked["few"])


def test_the_key_is_in_no_file(asked):
    root = asked["place"].root
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(".snakemake" in path.parts for path in files) and any(path.suffix == ".jsonl" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in asked["run"].output + asked["more"].output
    record = read_provenance(root / "results/tiny/interpretations/base/seed0.parquet")
    assert record["parameters"]["language_model"]["key_env"] == KEY_ENV


def test_a_key_in_place_of_its_variable_is_refused_and_not_shown(study):
    for block in ({"key_env": KEY}, {"api_key": KEY}, {"base_url": f"https://user:{KEY}@host/v1"}):
        study.config["interpretation"] = block
        run = study.snakemake("-n")
        del study.config["interpretation"]
        assert run.refused() and KEY not in run.output, run
