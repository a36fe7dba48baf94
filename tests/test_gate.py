"""What the gate says of a dictionary, at its thresholds."""

import logging
import math

import pytest

from feature_lineage.autoencoders.gate import failed_edges, judge, read_evaluations, sentences, shortcomings, warn
from feature_lineage.store.formats import write_json

SOUND = {
    "l0": 40.0, "l0_target": 40.0, "variance_explained": 0.8, "loss_recovered": 0.95, "loss_clean": 2.0, "loss_zero": 5.0,
    "dead_share": 0.01,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"l0": 50.0}, None),
        ({"l0": 30.0}, None),
        ({"l0": 50.1}, "L0 is 50.1, more than a quarter from its target, 40; raise autoencoder.tokens or autoencoder.lr, or autoencoder.l0."),
        ({"l0": 29.9}, "L0 is 29.9, more than a quarter from its target, 40; raise autoencoder.tokens or autoencoder.lr."),
        ({"l0": math.nan}, "L0 is nan"),
        ({"l0": 0.1, "l0_target": None}, None),
        ({"variance_explained": 0.5}, None),
        ({"variance_explained": 0.499}, "Variance explained is 49.9%, below 50%"),
        ({"variance_explained": -0.047}, "Variance explained is -4.7%"),
        ({"variance_explained": None}, "Variance explained could not be measured"),
        ({"variance_explained": math.nan}, "Variance explained could not be measured"),
        ({"loss_recovered": 0.0}, None),
        ({"loss_recovered": 1.05}, None),
        ({"loss_recovered": -0.01}, "worse for the loss than zeros"),
        ({"loss_recovered": -12.22}, "Loss recovered is -1222.0%, outside 0% to 105%"),
        ({"loss_recovered": 1.06}, "the loss is lower with the reconstruction"),
        ({"loss_recovered": 0.9, "loss_zero": 1.9}, "do not raise the loss (2.000 to 1.900 nats), so loss recovered says nothing"),
        ({"loss_recovered": -4.98, "loss_zero": 1.9}, "so loss recovered says nothing"),
        ({"loss_recovered": math.nan}, "Loss recovered could not be measured"),
        ({"loss_recovered": None}, "Loss recovered could not be measured"),
        ({"dead_share": 0.2}, None),
        ({"dead_share": 0.21}, "21.0% of the features are dead, more than 20%"),
    ],
)  # fmt: skip
def test_each_threshold(changes, said):
    found = shortcomings(SOUND | changes)
    assert len(found) == (said is not None)
    if said:
        assert said in found[0] and found[0].endswith(".")


def test_one_warning_with_all_that_falls_short(caplog):
    with caplog.at_level(logging.WARNING, "feature_lineage"):
        warn("base.seed0", SOUND | {"l0": 1.0, "dead_share": 0.5})
        warn("lua.seed0", SOUND)
    (record,) = caplog.records
    assert record.getMessage().startswith("base.seed0: no finding can rest on this dictionary. L0 is 1,")
    assert "50.0% of the features are dead" in record.getMessage()


def test_dictionaries_of_a_folder(tmp_path):
    bad = SOUND | {"dead_share": 0.5}
    untrained = {key: value for key, value in bad.items() if key != "l0_target"}
    write_json(tmp_path / "saes/base/seed0/evaluation.json", SOUND, {})
    write_json(tmp_path / "saes/lua-2.1/seed11/evaluation.json", bad, {})
    write_json(tmp_path / "saes/base-untrained/seed0/evaluation.json", untrained, {})
    write_json(tmp_path / "controls/started/base--lua-2.1/seed0/evaluation.json", bad, {})
    write_json(tmp_path / "controls/transfer/base.seed0--lua-2.1.json", untrained, {})
    found = judge(read_evaluations(tmp_path))
    assert list(found) == [("lua-2.1", 11), ("base--lua-2.1", 0)]
    assert [line.split(":")[0] for line in sentences(found)] == [
        "lua-2.1, seed 11",
        "lua-2.1, started from base, seed 0",
    ]
    edges = [{"parent": "base", "child": "lua-2.1", "seed": seed} for seed in (0, 11)]
    assert failed_edges(edges, found) == {("base", "lua-2.1", 11)}
