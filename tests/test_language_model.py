import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

from feature_lineage.errors import InputError
from feature_lineage.models.checkpoint import build_model, import_model, load_model, published_model, save_model
from feature_lineage.models.evaluation import evaluate_model
from feature_lineage.store.checksums import digests
from feature_lineage.store.formats import read_provenance
from feature_lineage.study.keys import Architecture
from feature_lineage.text.windows import Windows

IDS = torch.arange(24).reshape(2, 12) * 7 % 400


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def saved(tiny_model, tokenizer_dir, tmp_path):
    """(model, its directory)."""
    model = tiny_model(3)
    save_model(model, tokenizer_dir, tmp_path / "model", {"digest": "abc", "parameters": {"seed": 3}})
    return model, tmp_path / "model"


# --- build -------------------------------------------------------------------------------------------------


def test_model_depends_on_the_seed_alone(tiny_model):
    first = tiny_model(5)
    torch.manual_seed(123)
    torch.rand(10)
    assert same(first, tiny_model(5))
    assert not same(first, tiny_model(6))


def test_model_has_the_shape_asked_for(tiny_model, architecture):
    model = tiny_model(num_hidden_layers=2)
    assert isinstance(model, MistralForCausalLM)
    config = model.config
    for key, value in (architecture | {"num_hidden_layers": 2}).items():
        if key != "rope_theta":
            assert getattr(config, key) == value
    assert config.rope_parameters["rope_theta"] == architecture["rope_theta"]
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id) == (400, 0, 0)
    assert not config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert len(model.model.layers) == 2


def test_rope_theta_is_used(tiny_model):
    with torch.no_grad():
        logits = [tiny_model(rope_theta=theta).eval()(IDS).logits for theta in (1e4, 1e4, 1e6)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_default_architecture_is_the_papers_35_million(tokenizer_dir):
    with torch.device("meta"):
        model = build_model(Architecture().model_dump(), tokenizer_dir, 0)
    own = sum(parameter.numel() for parameter in model.parameters()) - 2 * 400 * 512
    assert round((own + 2 * 32_000 * 512) / 1e6, 1) == 35.1


# --- save and load -----------------------------------------------------------------------------------------


def test_round_trip_keeps_every_bit_and_the_provenance(saved):
    model, path = saved
    assert same(load_model(path), model)
    others = {file: digest for file, digest in digests(path).items() if file != "model.safetensors"}
    assert read_provenance(path / "model.safetensors") == {
        "digest": "abc",
        "parameters": {"seed": 3},
        "files": others,
    }
    assert not list(path.parent.glob(".*"))


def test_checkpoint_is_a_hugging_face_directory(saved, tokenizer_dir):
    model, path = saved
    loaded = AutoModelForCausalLM.from_pretrained(path)
    assert type(loaded) is MistralForCausalLM
    assert loaded.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(loaded.eval()(IDS).logits, model.eval()(IDS).logits)
    assert AutoTokenizer.from_pretrained(path).get_vocab() == AutoTokenizer.from_pretrained(tokenizer_dir).get_vocab()
    assert (path / "tokenizer.json").read_bytes() == (tokenizer_dir / "tokenizer.json").read_bytes()


def test_saving_twice_gives_the_same_bytes(saved, tokenizer_dir, tmp_path):
    model, path = saved
    for i in range(5):  # safetensors alone orders two keys of metadata at random
        save_model(model, tokenizer_dir, tmp_path / f"again{i}", {"digest": "abc", "parameters": {"seed": 3}})
        for file in path.iterdir():
            assert (tmp_path / f"again{i}" / file.name).read_bytes() == file.read_bytes(), file.name


def test_saving_keeps_what_other_steps_wrote(saved, tokenizer_dir):
    model, path = saved
    (path / "sweep.parquet").write_text("of another step")
    save_model(model, tokenizer_dir, path, {})
    assert (path / "sweep.parquet").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_model_is_not_saved_with_a_part_of_its_tokenizer(saved, tokenizer_dir, tmp_path, name):
    tokenizer = shutil.copytree(tokenizer_dir, tmp_path / "tokenizer")
    (tokenizer / name).unlink()
    with pytest.raises(InputError, match=rf"tokenizer/{name}: this input file is missing"):
        save_model(saved[0], tokenizer, tmp_path / "other", {})
    assert not (tmp_path / "other").exists()


def test_model_is_loaded_for_evaluation(saved):
    assert not load_model(saved[1]).training


def test_model_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match=r"model .*nothing: cannot be loaded"):
        published_model(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"model nobody/nothing: cannot be loaded"):
        published_model("nobody/nothing")
    with pytest.raises(InputError, match=r"nothing/model.safetensors: this input file is missing"):
        load_model(tmp_path / "nothing")


def test_truncated_weights_are_named(saved):
    _, path = saved
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"{weights}: cannot be read, it is truncated or damaged"):
        load_model(path)
    with pytest.raises(InputError, match=rf"model {path}: cannot be loaded"):
        published_model(path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_another_file_of_a_model_is_known_by_the_weights(saved, name):
    _, path = saved
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[:-1] + b" ")
    remedy = rf"delete it and {path}/model.safetensors"
    with pytest.raises(InputError, match=rf"{path}/{name}: cannot be read, it is truncated or damaged .*{remedy}"):
        load_model(path)
    (path / name).unlink()
    with pytest.raises(InputError, match=rf"{path}/{name}: this input file is missing"):
        load_model(path)
    (path / name).write_bytes(whole)
    load_model(path)


def test_weights_that_are_not_safetensors_are_refused(saved):
    # a pickle could run code
    model, path = saved
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    with pytest.raises(InputError, match=rf"model {path}: cannot be loaded"):
        published_model(path)


@pytest.mark.parametrize("fault", ["missing", "misshapen", "unexpected"])
def test_tensors_that_do_not_fit_are_refused(saved, fault):
    # transformers alone would warn and go on with random weights
    _, path = saved
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "misshapen":
        tensors[name] = tensors[name][:-1].contiguous()
    else:
        name = "model.layers.0.mlp.more.weight"
        tensors[name] = torch.zeros(3)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"model {path}: ") as error:
        published_model(path)
    if fault != "misshapen":  # transformers logs the names of these and raises without them
        assert name in str(error.value)


# --- import ------------------------------------------------------------------------------------------------


def test_imported_model_is_the_published_one_with_the_studys_tokenizer(saved, tokenizer_dir, tmp_path):
    model, path = saved
    for file in path.glob("tokenizer*"):
        file.unlink()
    import_model(str(path), tokenizer_dir, tmp_path / "imported", {"digest": "imported"})
    assert same(load_model(tmp_path / "imported"), model)
    assert read_provenance(tmp_path / "imported" / "import.json")["digest"] == "imported"
    assert (tmp_path / "imported" / "tokenizer.json").exists()


def test_import_accepts_an_embedding_with_room_to_spare(tokenizer_dir, tmp_path, architecture):
    path = published(tmp_path / "large", architecture, 512)
    import_model(str(path), tokenizer_dir, tmp_path / "imported", {})
    assert load_model(tmp_path / "imported").get_input_embeddings().num_embeddings == 512


def test_import_refuses_an_embedding_that_is_too_small(tokenizer_dir, tmp_path, architecture):
    path = published(tmp_path / "small", architecture, 399)
    with pytest.raises(
        InputError, match=r"small: its embedding has 399 tokens, the study's tokenizer 400; name its own"
    ):
        import_model(str(path), tokenizer_dir, tmp_path / "imported", {})
    assert not (tmp_path / "imported").exists()


def published(path, architecture, vocabulary):
    options = {key: value for key, value in architecture.items() if key != "rope_theta"}
    MistralForCausalLM(MistralConfig(vocab_size=vocabulary, **options)).save_pretrained(path)
    return path


# --- evaluate ----------------------------------------------------------------------------------------------


def test_evaluation_equals_a_float64_reference(monkeypatch, tiny_model, tmp_path, write_tokens):
    monkeypatch.setattr("feature_lineage.models.evaluation.windows_at_once", lambda *sizes, on_cpu: 3)
    rng = np.random.default_rng(0)
    windows = Windows({"c": write_tokens(tmp_path / "c", rng.integers(0, 400, 500), rng.integers(0, 400, 203))}, 16)
    model = tiny_model().eval()
    chosen = np.array([0, 3, 40, 7, 12, 30, 2])
    found = evaluate_model(model, windows, chosen)

    losses, hits = [], []
    for index in chosen:
        ids = windows[int(index)]
        with torch.no_grad():
            logits = model.double()(torch.from_numpy(ids)[None]).logits[0].numpy()
        for position in range(15):
            row, target = logits[position], ids[position + 1]
            highest = row.max()
            losses.append(highest + np.log(np.exp(row - highest).sum()) - row[target])
            hits.append(row.argmax() == target)
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert found["accuracy"] == np.mean(hits)
    assert found["tokens"] == 7 * 15


def test_evaluation_does_not_depend_on_the_batch(monkeypatch, tiny_model, tmp_path, write_tokens):
    windows = Windows({"c": write_tokens(tmp_path / "c", np.arange(640) % 400)}, 16)
    model = tiny_model().eval()
    found = []
    for batch in (1, 7, 64):
        monkeypatch.setattr(
            "feature_lineage.models.evaluation.windows_at_once", lambda *sizes, on_cpu, batch=batch: batch
        )
        found.append(evaluate_model(model, windows, np.arange(40)))
    for other in found[1:]:
        assert other["loss"] == pytest.approx(found[0]["loss"], rel=1e-6)
        assert other["accuracy"] == found[0]["accuracy"]


def test_evaluation_of_a_model_that_knows_the_answer(tiny_model, tmp_path, write_tokens):
    # a head that scores token i + 1 after token i, whatever the rest of the model does
    class Successor(torch.nn.Module):
        config = MistralConfig()

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def get_input_embeddings(self):
            return torch.nn.Embedding(10, 1)

        def forward(self, ids):
            return type("Output", (), {"logits": 50.0 * torch.nn.functional.one_hot((ids + 1) % 10, 10)})

    windows = Windows({"c": write_tokens(tmp_path / "c", np.arange(200) % 10)}, 20)
    found = evaluate_model(Successor(), windows, np.arange(10))
    assert found["accuracy"] == 1
    assert found["loss"] == pytest.approx(0, abs=1e-12)


def test_config_and_weights_can_be_read_without_this_project(saved):
    # the directory holds plain files only, as the hub would
    _, path = saved
    names = {file.name for file in path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".py"))]
    config = json.loads((path / "config.json").read_text())
    assert config["architectures"] == ["MistralForCausalLM"]
    assert "auto_map" not in config


def test_a_copy_elsewhere_loads_too(saved, tmp_path):
    model, path = saved
    shutil.copytree(path, tmp_path / "else" / "where")
    assert same(load_model(tmp_path / "else" / "where"), model)
