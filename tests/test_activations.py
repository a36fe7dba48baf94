"""Activations at a hook point against Hugging Face's model, losses when they are replaced, and reading ahead."""

import threading
import time

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from feature_lineage.errors import InputError
from feature_lineage.models.hooks import (
    activation_batches,
    activations,
    load_hooked,
    loss_recovered,
    next_token_losses,
    spliced_losses,
)
from feature_lineage.models.read_ahead import ReadAhead
from feature_lineage.text.windows import Windows

HOOK = "blocks.0.mlp.hook_post"


def test_activations_are_the_input_of_down_proj(tiny_study, token_directories, bridge):
    tokens = Windows(token_directories, 12)[np.arange(5)]
    model = AutoModelForCausalLM.from_pretrained(tiny_study / "llama-gemma-gpt2", attn_implementation="eager")
    seen = []
    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)).logits
    found = activations(bridge, HOOK, tokens)
    assert found.shape == (60, 24)
    torch.testing.assert_close(found, seen[0].flatten(0, 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(bridge(torch.from_numpy(tokens)), logits, rtol=0, atol=1e-5)


def test_a_hook_point_that_is_not_there_is_named(tiny_study):
    with pytest.raises(InputError, match=r"blocks\.7\.mlp\.hook_post.*autoencoder\.hook"):
        load_hooked(tiny_study / "llama-gemma-gpt2", "blocks.7.mlp.hook_post")


def test_batches_are_the_same_however_far_the_model_reads_ahead(token_directories, bridge):
    windows = Windows(token_directories, 8)
    chosen = np.arange(3, 40)
    one = list(activation_batches(bridge, HOOK, windows, chosen, batch=5, ahead=1))
    four = list(activation_batches(bridge, HOOK, windows, chosen, batch=5, ahead=4))
    assert len(one) == len(four) == 7
    for a, b in zip(one, four, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_losses_with_replaced_activations(tiny_study, token_directories, bridge):
    tokens = Windows(token_directories, 12)[np.arange(4)]
    ids = torch.from_numpy(tokens)
    model = AutoModelForCausalLM.from_pretrained(tiny_study / "llama-gemma-gpt2").double()
    with torch.no_grad():
        log = model(ids).logits[:, :-1].log_softmax(-1)
    expected = -log.gather(-1, ids[:, 1:, None]).flatten()
    torch.testing.assert_close(next_token_losses(bridge, HOOK, tokens).double(), expected, rtol=0, atol=1e-5)
    same = next_token_losses(bridge, HOOK, tokens, lambda x: x)
    torch.testing.assert_close(same.double(), expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.zero_()
        log = model(ids).logits[:, :-1].log_softmax(-1)
    zero = next_token_losses(bridge, HOOK, tokens, torch.zeros_like)
    torch.testing.assert_close(zero.double(), -log.gather(-1, ids[:, 1:, None]).flatten(), rtol=0, atol=1e-5)


def test_spliced_losses_are_means_over_all_windows(monkeypatch, token_directories, bridge):
    monkeypatch.setattr("feature_lineage.models.hooks.windows_at_once", lambda *sizes: 3)
    tokens = Windows(token_directories, 12)[np.arange(7)]
    kinds = (None, torch.zeros_like)
    found = spliced_losses(bridge, HOOK, tokens, kinds)
    expected = [float(next_token_losses(bridge, HOOK, tokens, kind).double().mean()) for kind in kinds]
    assert found == pytest.approx(expected, rel=1e-6)


def test_loss_recovered_is_one_for_the_model_itself_and_zero_for_zeros():
    assert loss_recovered(clean=2.0, zero=5.0, spliced=2.0) == 1
    assert loss_recovered(clean=2.0, zero=5.0, spliced=5.0) == 0
    assert loss_recovered(clean=2.0, zero=5.0, spliced=2.75) == 0.75


def test_reading_ahead_gives_the_same_items_and_stops_at_its_depth():
    made = []

    def source():
        for i in range(20):
            made.append(i)
            yield torch.tensor(i)

    with ReadAhead(source(), 3) as ahead:
        time.sleep(0.2)
        assert len(made) <= 4
        assert [int(item) for item in ahead] == list(range(20))
    assert ahead.busy >= 0 <= ahead.waited


def test_reading_ahead_overlaps_and_knows_who_waited():
    def source():
        for i in range(5):
            time.sleep(0.05)
            yield torch.tensor(i)

    with ReadAhead(source(), 2) as ahead:
        for _ in ahead:
            time.sleep(0.05)
    assert ahead.busy > 0.2
    assert ahead.waited < 0.2  # one after the other it would be all of 0.25


@pytest.mark.parametrize("error", [KeyError("broken"), KeyboardInterrupt()])
def test_an_error_of_the_source_reaches_the_reader(error):
    def source():
        yield torch.tensor(0)
        raise error

    with ReadAhead(source(), 2) as ahead:
        next(ahead)
        with pytest.raises(type(error)):
            next(ahead)


def test_a_reader_that_leaves_early_ends_the_thread():
    def forever():
        while True:
            yield torch.tensor(0)

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), ReadAhead(forever(), 2) as ahead:
        next(ahead)
        1 / 0  # noqa: B018
    assert threading.active_count() == before


def test_two_threads_do_not_see_each_others_hooks(token_directories, bridge):
    """The source reads ahead while the trainer measures loss recovered on the same model."""
    windows = Windows(token_directories, 12)
    alone = activations(bridge, HOOK, windows[np.arange(40)])
    losses = next_token_losses(bridge, HOOK, windows[np.arange(40)], torch.zeros_like)
    with ReadAhead((activations(bridge, HOOK, windows[np.arange(40)]) for _ in range(30)), 1) as ahead:
        for item in ahead:
            assert torch.equal(item, alone)
            assert torch.equal(next_token_losses(bridge, HOOK, windows[np.arange(40)], torch.zeros_like), losses)


def test_the_thread_that_reads_ahead_computes_with_as_many_threads():
    def source():
        yield torch.tensor(torch.get_num_threads())

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with ReadAhead(source(), 1) as ahead:
            assert int(next(ahead)) == 3
    finally:
        torch.set_num_threads(before)
