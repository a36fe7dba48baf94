import random
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from trainings import train_model

from feature_lineage.errors import InputError, Stopped
from feature_lineage.models import training
from feature_lineage.models.checkpoint import save_model
from feature_lineage.models.evaluation import evaluate_model
from feature_lineage.models.training import CURVE, keep_model, kept_file, last_checkpoint, mark_whole
from feature_lineage.store.formats import read_tensors
from feature_lineage.text.windows import Windows

BLOCK, BATCH = 16, 8


class Killed(Exception):
    """Stands for a job that is killed."""


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_tokens):
    """Token directories: a language of one sentence, one with noise in it, and held-out parts of both."""
    rng = np.random.default_rng(0)
    sentence = np.tile(rng.integers(1, 400, 10), 120)
    noisy = np.where(rng.random(1200) < 0.2, rng.integers(1, 400, 1200), sentence)
    write = {"train": {"plain": sentence, "noisy": noisy}, "validation": {"plain": sentence[:90], "noisy": noisy[:200]}}
    folder = tmp_path_factory.mktemp("tokens")
    return {
        split: {name: write_tokens(folder / name / split, ids) for name, ids in parts.items()}
        for split, parts in write.items()
    }


@pytest.fixture(scope="module")
def train_in(data, tiny_model):
    """A function that trains a tiny model with its checkpoints in a folder, and may be killed after a step."""

    def run(checkpoints, kill=None, model=None, **changes):
        options = {
            "train": data["train"],
            "validation": data["validation"],
            "checkpoints": checkpoints,
            "name": "lua",
            "seed": 0,
            "balance": False,
            "tokens": None,
            "epochs": 1,
            "block": BLOCK,
            "batch": BATCH,
            "lr": 1e-2,
            "weight_decay": 0.1,
            "warmup_steps": 2,
            "evaluations": 3,
            "evaluation_tokens": 100,
        } | changes
        model = model or tiny_model(0)
        with pytest.MonkeyPatch.context() as patch:
            if kill:
                step_end = training._Progress.on_step_end

                def killer(self, args, state, control, **options):
                    step_end(self, args, state, control, **options)
                    if state.global_step == kill:
                        raise Killed

                patch.setattr(training._Progress, "on_step_end", killer)
            return model, train_model(model, **options)

    return run


@pytest.fixture
def train(train_in, tmp_path):
    """`train_in` with folders of this test's own."""
    return lambda folder="checkpoints", **options: train_in(tmp_path / folder, **options)


@pytest.fixture(scope="module")
def unbroken(train_in, tmp_path_factory):
    """A function that gives the weights and the curve of a run that nobody killed; each is trained once."""

    @cache
    def run(**options):
        model, curve = train_in(tmp_path_factory.mktemp("unbroken"), **options)
        return weights(model), curve

    return run


def weights(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def rows(curve, split):
    return [row for row in curve.to_pylist() if row["split"] == split]


def test_training_lowers_the_loss_of_a_learnable_text(train):
    _, curve = train(epochs=4)
    first, *_, last = [row for row in rows(curve, "validation") if row["corpus"] == "plain"]
    assert first["loss"] == pytest.approx(np.log(400), rel=0.05)  # nothing is known yet
    assert last["loss"] < 0.5
    assert last["accuracy"] > 0.9 > 0.1 > first["accuracy"]


def test_a_warm_up_longer_than_the_run_is_refused(train):
    with pytest.raises(InputError, match=r"models\.lua\.training\.warmup_steps is 19, and the run has 19 steps"):
        train(warmup_steps=19)
    train("another", warmup_steps=18)


def test_curve_has_each_measurement_once(train):
    # 150 windows in batches of 8 are 19 steps; 3 evaluations: every 7 steps
    _, curve = train()
    assert curve.schema == CURVE
    measured = [(row["step"], row["corpus"]) for row in rows(curve, "validation")]
    assert measured == [(step, corpus) for step in (0, 7, 14, 19) for corpus in ("noisy", "plain")]
    steps = [row["step"] for row in rows(curve, "train")]
    assert steps == list(range(1, 20))
    assert all(row["tokens"] == row["step"] * BLOCK * BATCH for row in curve.to_pylist())
    assert all(row["accuracy"] is None and row["corpus"] is None for row in rows(curve, "train"))
    rates = [row["learning_rate"] for row in rows(curve, "train")]
    assert rates[:3] == pytest.approx([0, 5e-3, 1e-2]), "rises over 2 steps"
    assert rates[2:] == sorted(rates[2:], reverse=True), "and falls from there"
    assert rates[-1] < 1e-3


@pytest.mark.parametrize(
    ("evaluations", "steps"), [(1, [0, 19]), (2, [0, 10, 19]), (19, list(range(20))), (100, list(range(20)))]
)
def test_last_step_is_evaluated_once(train, evaluations, steps):
    _, curve = train(evaluations=evaluations)
    assert [row["step"] for row in rows(curve, "validation") if row["corpus"] == "plain"] == steps


def test_curve_ends_with_what_the_model_is_then_measured_at(train, data):
    model, curve = train()
    windows = Windows(data["validation"], BLOCK)
    for number, corpus in enumerate(windows.corpora):
        found = evaluate_model(model.eval(), windows, windows.spread(number, 100))
        last = [row for row in rows(curve, "validation") if row["corpus"] == corpus][-1]
        assert last["loss"] == pytest.approx(found["loss"], rel=1e-6)
        assert last["accuracy"] == pytest.approx(found["accuracy"], abs=1e-7)


def test_training_loss_is_the_mean_over_all_tokens(train, data, tiny_model):
    # one step over all there is: the first logged loss is the untrained model's
    windows = Windows(data["train"], BLOCK)
    _, curve = train(batch=200, warmup_steps=0)
    expected = evaluate_model(tiny_model(0).eval(), windows, np.arange(len(windows)))
    assert rows(curve, "train")[0]["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"epochs": 2}, 38), ({"epochs": 0.5}, 10), ({"tokens": 640}, 5), ({"tokens": 700, "epochs": 1.1}, 7)],
)
def test_number_of_steps(train, options, steps):
    _, curve = train(**options)
    assert curve["step"].to_pylist()[-1] == steps


def test_same_run_gives_the_same_bytes_and_another_seed_others(train, unbroken):
    expected, curve = unbroken()
    again, same_curve = train()
    assert weights(again) == expected
    assert same_curve.equals(curve)
    assert weights(train("other", seed=1)[0]) != expected


def test_every_weight_is_trained_in_float32(train, tiny_model):
    model, _ = train()
    before, after = tiny_model(0).state_dict(), model.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}


def test_fine_tuning_starts_from_the_given_weights(train):
    model, first = train("base", epochs=4)
    _, second = train("child", model=model)
    ends = [row["loss"] for row in rows(first, "validation")][-2:]
    assert [row["loss"] for row in rows(second, "validation")][:2] == pytest.approx(ends, rel=1e-6)


# --- killed and started again ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kills", "options"),
    [
        ([3], {}),  # before the first checkpoint
        ([9], {}),  # after one checkpoint
        ([16], {}),  # after two
        ([9, 16], {}),  # twice
        ([30], {"epochs": 2.5}),  # in a later pass over the data
        ([19], {}),  # at the very end of the last step, before its checkpoint
    ],
)
def test_killed_and_resumed_equals_unbroken(train, unbroken, kills, options):
    expected, curve = unbroken(**options)
    for kill in kills:
        with pytest.raises(Killed):
            train(kill=kill, **options)
    resumed, again = train(**options)
    assert weights(resumed) == expected
    assert again.equals(curve)


def test_asked_to_stop_it_saves_first(train, unbroken):
    expected, curve = unbroken()
    answers = iter([False] * 4)
    with pytest.raises(Stopped, match="after step 5 of"):
        train(stop=lambda: next(answers, True))
    resumed, again = train()
    assert weights(resumed) == expected
    assert again.equals(curve)


@pytest.mark.parametrize("epochs", [1, 1.3])
def test_killed_after_its_last_checkpoint_takes_no_step_more(train, epochs):
    trained, curve = train(epochs=epochs)
    again, same_curve = train(epochs=epochs)
    assert weights(again) == weights(trained)
    assert same_curve.equals(curve)


def test_resumed_curve_is_whole_where_not_every_step_is_logged(train, unbroken):
    # from 400 steps on a logged loss is the mean since the one before it, which a checkpoint does not hold
    options = {"tokens": 2 * BLOCK, "batch": 1, "epochs": 210, "evaluations": 4, "evaluation_tokens": 16}
    expected, curve = unbroken(**options)
    assert [row["step"] for row in rows(curve, "train")] == [1, *range(2, 421, 2)]
    with pytest.raises(Killed):
        train(kill=350, **options)
    resumed, again = train(**options)
    assert weights(resumed) == expected
    assert again.equals(curve)


def test_half_written_checkpoint_is_ignored(train, unbroken, tmp_path):
    expected, curve = unbroken()
    with pytest.raises(Killed):
        train(kill=16)
    half = max((tmp_path / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert half.name == "checkpoint-14"
    (half / "whole").unlink()
    (half / "model.safetensors").write_bytes(b"half")
    resumed, again = train()
    assert weights(resumed) == expected
    assert again.equals(curve)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(train, tmp_path, caplog):
    with pytest.raises(Killed):
        train(kill=16)
    seed = random.randrange(1 << 32)
    files = sorted(path.name for path in (tmp_path / "checkpoints" / "checkpoint-14").iterdir())
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "whole"} < set(files)
    for file in files:
        checkpoints = shutil.copytree(tmp_path / "checkpoints", tmp_path / file)
        newest, before = (checkpoints / f"checkpoint-{step}" for step in (14, 7))
        content = bytearray((newest / file).read_bytes())
        content[random.Random(seed).randrange(len(content))] ^= 1
        (newest / file).write_bytes(content)
        caplog.clear()
        assert last_checkpoint(checkpoints) == before, f"{file}, seed {seed}"
        assert str(newest) in caplog.text, f"{file}, seed {seed}"
        assert not newest.exists()


def test_last_checkpoint_is_the_newest_whole_one(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step, whole in ((9, True), (10, True), (100, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model").write_text("weights")
        if whole:
            mark_whole(tmp_path / f"checkpoint-{step}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-100").exists(), "Trainer would refuse to write over it"
    for mark in ("[]", "{}", "1", "null"):
        (tmp_path / "checkpoint-10" / "whole").write_text(mark)
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
        (tmp_path / "checkpoint-10").mkdir()


# --- refused -----------------------------------------------------------------------------------------------


def test_too_little_training_text_names_the_key(train, data):
    with pytest.raises(InputError, match=r"plain/train.*smaller than asked.*models.lua.training.tokens needs 4,?000"):
        train(tokens=4000)


def test_too_little_validation_text_names_the_corpus(train, data, tmp_path, write_tokens):
    validation = data["validation"] | {"empty": write_tokens(tmp_path / "empty", range(5))}
    with pytest.raises(InputError, match=r"empty: holds not one window of 16 tokens; raise corpora.empty.validation"):
        train(validation=validation)


def test_windows_are_drawn_by_balance_and_seed(train, data, monkeypatch):
    seen = []
    draw = Windows.sample
    monkeypatch.setattr(Windows, "sample", lambda self, *args: seen.append((self, draw(self, *args))) or seen[-1][1])
    corpora = {"long": data["train"]["plain"], "short": data["validation"]["noisy"]}
    for number, (seed, balance) in enumerate([(0, True), (0, False), (1, True)]):
        train(str(number), train=corpora, balance=balance, seed=seed)
    counts = [list(np.bincount(windows.places(chosen)[0])) for windows, chosen in seen]
    assert counts == [[12, 12], [75, 12], [12, 12]]
    assert set(seen[0][1]) != set(seen[2][1])


# --- several GPUs --------------------------------------------------------------------------------------------


def test_the_batch_is_the_configured_one_however_many_gpus_are_visible(train, monkeypatch):
    """Of two visible GPUs Trainer would use both, with the whole batch on each, through DataParallel."""
    _, alone = train("alone")
    monkeypatch.setattr(training.TrainingArguments, "n_gpu", property(lambda self: 2))
    sizes, real = [], training.Trainer.training_step

    def step(self, model, inputs, *rest):
        assert not isinstance(model, torch.nn.DataParallel)
        sizes.append(len(inputs["input_ids"]))
        return real(self, model, inputs, *rest)

    monkeypatch.setattr(training.Trainer, "training_step", step)
    _, several = train("several")
    assert set(sizes[:-1]) == {BATCH}
    assert several.equals(alone)


def kept(checkpoints, step):
    return read_tensors(kept_file(checkpoints, step))


def test_the_weights_of_a_step_are_kept_as_they_were(train, train_in, tmp_path):
    """Beside the same run, ended by a kill right after that step; the end is what it is without."""
    model, _ = train_in(tmp_path / "whole", keep=[3, 7])
    plain, _ = train_in(tmp_path / "plain")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    seen = {}

    def remember(self, args, state, control, model, **_):
        seen[state.global_step] = {name: tensor.clone().numpy() for name, tensor in model.state_dict().items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Keep, "on_step_end", remember)
        train_in(tmp_path / "seen")
    for step in (3, 7):
        found = kept(tmp_path / "whole", step)
        assert found.keys() == seen[step].keys()
        assert all(np.array_equal(found[name], seen[step][name]) for name in found)
    assert not np.array_equal(*(kept(tmp_path / "whole", step)["lm_head.weight"] for step in (3, 7)))


def test_what_was_kept_before_a_kill_is_kept(train_in, tmp_path):
    train_in(tmp_path / "whole", keep=[2, 9])
    with pytest.raises(Killed):
        train_in(tmp_path / "killed", keep=[2, 9], kill=7)
    train_in(tmp_path / "killed", keep=[2, 9])
    for step in (2, 9):
        assert kept_file(tmp_path / "killed", step).read_bytes() == kept_file(tmp_path / "whole", step).read_bytes()


def test_a_step_that_the_run_has_not_is_refused(train_in, tmp_path):
    with pytest.raises(InputError, match=r"models.lua.training.keep asks for step 1000, and the run ends with step"):
        train_in(tmp_path / "run", keep=[1000])


def test_a_kept_step_becomes_a_model(train_in, tmp_path, tokenizer_dir):
    model, _ = train_in(tmp_path / "run", keep=[3])
    save_model(model, tokenizer_dir, tmp_path / "end", {})
    found = keep_model(tmp_path / "end", kept_file(tmp_path / "run", 3)).state_dict()
    assert all(np.array_equal(found[name].numpy(), tensor) for name, tensor in kept(tmp_path / "run", 3).items())
