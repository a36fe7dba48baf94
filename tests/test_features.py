"""The shared sample, the features that fire on it, and an autoencoder trained on a real (tiny) model."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from feature_lineage import features, samples
from feature_lineage.activations import activation_batches, activations, load_hooked, next_token_losses
from feature_lineage.autoencoder import SparseAutoencoder
from feature_lineage.language_model import build_model, save_model
from feature_lineage.logs import InputError
from feature_lineage.tokens import Windows, encode_corpus, save_tokenizer, train_tokenizer

HOOK = "blocks.0.mlp.hook_post"
SHAPE = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 64, "sliding_window": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two corpora of real text as tokens, and a random model under a path that names another architecture."""
    import ast
    import inspect
    import textwrap

    folder = tmp_path_factory.mktemp("study")
    for corpus, module in (("ast", ast), ("wrap", textwrap)):
        texts = [part for part in inspect.getsource(module).split("\n\n") if part.strip()] * 2
        table = pa.table({"text": texts, "source": ["s"] * len(texts), "license": ["l"] * len(texts)})
        pa.parquet.write_table(table, folder / f"{corpus}.parquet")
    save_tokenizer(train_tokenizer([folder / "ast.parquet"], 400), folder / "tokenizer", {})
    for corpus in ("ast", "wrap"):
        encode_corpus(
            folder / f"{corpus}.parquet", folder / "tokenizer", folder / "tokens" / corpus, {}, shard_tokens=2000
        )
    model = build_model(SHAPE, folder / "tokenizer", seed=0)
    save_model(model, folder / "tokenizer", folder / "llama-gemma-gpt2", {})
    return folder


@pytest.fixture(scope="module")
def bridge(study):
    return load_hooked(study / "llama-gemma-gpt2", HOOK)


def directories(study):
    return {corpus: study / "tokens" / corpus for corpus in ("ast", "wrap")}


def random_autoencoder(n=24, m=48, seed=0):
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    return SparseAutoencoder(
        draw(n, m), draw(m) * 0.01, torch.nn.functional.normalize(draw(m, n), dim=1), draw(n) * 0.01
    )


def test_activations_are_the_input_of_down_proj(study, bridge):
    tokens = Windows(directories(study), 12)[np.arange(5)]
    model = AutoModelForCausalLM.from_pretrained(study / "llama-gemma-gpt2", attn_implementation="eager")
    seen = []
    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)).logits
    found = activations(bridge, HOOK, tokens)
    assert found.shape == (60, 24)
    torch.testing.assert_close(found, seen[0].flatten(0, 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(bridge(torch.from_numpy(tokens)), logits, rtol=0, atol=1e-5)


def test_a_hook_point_that_is_not_there_is_named(study):
    with pytest.raises(InputError, match=r"blocks\.7\.mlp\.hook_post.*autoencoder\.hook"):
        load_hooked(study / "llama-gemma-gpt2", "blocks.7.mlp.hook_post")


def test_batches_are_the_same_however_far_the_model_reads_ahead(study, bridge):
    windows = Windows(directories(study), 8)
    chosen = np.arange(3, 40)
    one = list(activation_batches(bridge, HOOK, windows, chosen, batch=5, ahead=1))
    four = list(activation_batches(bridge, HOOK, windows, chosen, batch=5, ahead=4))
    assert len(one) == len(four) == 7
    for a, b in zip(one, four, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_losses_with_replaced_activations(study, bridge):
    tokens = Windows(directories(study), 12)[np.arange(4)]
    ids = torch.from_numpy(tokens)
    model = AutoModelForCausalLM.from_pretrained(study / "llama-gemma-gpt2").double()
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


def test_a_sample_has_as_many_tokens_of_each_corpus_and_knows_their_documents(study):
    sample = samples.draw_sample(directories(study), 800, 8, seed=0)
    assert sample["tokens"].shape == (100, 8)
    assert np.bincount(sample["corpus"]).tolist() == [50, 50]
    assert len(np.unique(sample["tokens"], axis=0)) > 90
    for number, path in enumerate(directories(study).values()):
        stream = np.concatenate([np.load(path / f) for f in sorted(p.name for p in path.glob("shard-*.npy"))])
        ends = np.flatnonzero(stream == 0)  # the end token is the first of the vocabulary
        for row in np.flatnonzero(sample["corpus"] == number)[:20]:
            inside = np.flatnonzero(sample["tokens"][row][:-1] == 0)
            steps = np.flatnonzero(np.diff(sample["document"][row]))
            assert inside.tolist() == steps.tolist()
            assert sample["document"][row].max() < len(ends)
    again = samples.draw_sample(directories(study), 800, 8, seed=0)
    assert all((sample[key] == again[key]).all() for key in sample)
    assert not (samples.draw_sample(directories(study), 800, 8, seed=1)["tokens"] == sample["tokens"]).all()


def test_a_sample_larger_than_a_corpus_is_refused(study):
    with pytest.raises(InputError, match=r"tokens/ast.*smaller than asked.*flow\.tokens"):
        samples.draw_sample(directories(study), 10**6, 8, seed=0)


def test_collected_features_are_the_non_zero_ones_of_the_autoencoder(study, bridge):
    tokens = samples.draw_sample(directories(study), 400, 8, seed=0)["tokens"]
    autoencoder = random_autoencoder()
    statistics = features.Statistics(tokens.size, 48)
    batches = features.feature_batches(bridge, HOOK, autoencoder, tokens, "test", batch=7)
    table = pa.Table.from_batches(list(statistics.counting(batches)))
    dense = autoencoder.encode(activations(bridge, HOOK, tokens.astype(np.int64))).numpy()
    found = np.zeros_like(dense)
    found[table["token"].to_numpy(), table["feature"].to_numpy()] = table["activation"].to_numpy()
    np.testing.assert_allclose(found, dense, atol=1e-6)
    assert (table["activation"].to_numpy() > 0).all()
    assert (np.diff(table["token"].to_numpy()) >= 0).all()
    counted = statistics.table().to_pandas()
    np.testing.assert_array_equal(counted["active"], (found > 0).sum(0))
    np.testing.assert_allclose(counted["density"], (found > 0).mean(0))
    np.testing.assert_allclose(counted["max"], found.max(0))
    np.testing.assert_allclose(counted["mean"] * counted["active"], found.sum(0), rtol=1e-5)


def test_evaluation_counts_every_token_once_and_recovers_loss(study, bridge):
    autoencoder = random_autoencoder()
    found = features.evaluate_autoencoder(bridge, HOOK, autoencoder, directories(study), 8, 320, "test")
    windows = Windows(directories(study), 8)
    tokens = np.concatenate([windows[windows.spread(i, 160)] for i in range(2)])
    x = activations(bridge, HOOK, tokens)
    assert found["tokens"] == tokens.size == 320
    assert found["l0"] == pytest.approx(float((autoencoder.encode(x) > 0).double().sum(1).mean()))
    assert found["mse"] == pytest.approx(
        float((x - autoencoder.decode(autoencoder.encode(x))).double().square().mean()), rel=1e-5
    )
    loss = {
        kind: float(next_token_losses(bridge, HOOK, tokens, replace).double().mean())
        for kind, replace in (
            ("clean", None),
            ("zero", torch.zeros_like),
            ("spliced", lambda x: autoencoder.decode(autoencoder.encode(x))),
        )
    }
    assert found["loss_clean"] == pytest.approx(loss["clean"], rel=1e-6)
    recovered = (loss["zero"] - loss["spliced"]) / (loss["zero"] - loss["clean"])
    assert found["loss_recovered"] == pytest.approx(recovered, rel=1e-4)
    assert set(found["corpora"]) == {"ast", "wrap"}


OPTIONS = {
    "hook": HOOK, "expansion": 2, "tokens": 3200, "context": 8, "batch": 10, "lr": 1e-3, "l1": 1e-3, "l1_warmup_steps": 0,
    "normalize": True, "mean": "elements", "init": "kaiming",
    "resampling": {"steps": [12], "silent_steps": 4, "pool_tokens": 400},
}  # fmt: skip


def test_an_autoencoder_of_a_model_resumes_to_the_same_weights(study, bridge, tmp_path, monkeypatch):
    run = lambda name: features.train_on_model(  # noqa: E731
        bridge, directories(study), tmp_path / name, label="test", seed=0, checkpoint_seconds=0.0, **OPTIONS
    )
    whole, curve = run("whole")
    assert whole.W_enc.shape == (24, 48)
    assert curve["step"].to_pylist()[-1] == 40

    real, count = features.activations, [0]

    def breaks(*arguments):
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    import feature_lineage.activations as module

    monkeypatch.setattr(module, "activations", breaks)
    with pytest.raises(KeyboardInterrupt):
        run("broken")
    monkeypatch.undo()
    assert (tmp_path / "broken").exists()
    resumed, resumed_curve = run("broken")
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name)), name
    assert curve.equals(resumed_curve)


def test_more_tokens_than_there_are_is_an_error(study, bridge, tmp_path):
    with pytest.raises(InputError, match=r"smaller than asked.*autoencoder\.tokens"):
        features.train_on_model(
            bridge, directories(study), tmp_path / "c", label="test", seed=0, **OPTIONS | {"tokens": 10**7}
        )
