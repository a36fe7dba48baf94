"""Run by the peers' Python, not by ours: dictionaries saved by their own libraries, and what these compute of given activations.

`python peers_autoencoders.py LIBRARY X.npy FOLDER` writes FOLDER/<case>/…, with the features and reconstructions beside in `peer.npz`,
and FOLDER/refused/<case>/… of kinds that this project does not read.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

M, K, ACTIVE = 1024, 32, 0.04
DRAW = torch.Generator().manual_seed(3)


def draw(*shape):
    return torch.randn(*shape, generator=DRAW)


def weights(x, norm=True):
    """Encoder [n, m], its bias for realistic sparsity, decoder [m, n] of rows with norms from .5 to 1.5, biases that are not 0."""
    n = x.shape[1]
    decoder = torch.nn.functional.normalize(draw(M, n), dim=1)
    encoder = (decoder + 0.3 * draw(M, n) / n**0.5).T / x.std()
    if norm:
        decoder = decoder * (0.5 + torch.rand(M, 1, generator=DRAW))
    b_dec = x.mean(0) + 0.2 * x.std() * draw(n)
    pre = (x - b_dec) @ encoder
    return {"W_enc": encoder, "b_enc": -torch.quantile(pre, 1 - ACTIVE, dim=0), "W_dec": decoder, "b_dec": b_dec}


def told(folder, features, reconstruction):
    np.savez(folder / "peer.npz", features=features.detach().numpy(), reconstruction=reconstruction.detach().numpy())


def saelens(x, folder):
    from sae_lens import SAE
    from sae_lens.saes import (
        batchtopk_sae,
        gated_sae,
        jumprelu_sae,
        matryoshka_batchtopk_sae,
        sae,
        standard_sae,
        topk_sae,
        transcoder,
    )
    from sae_lens.training.activation_scaler import ActivationScaler

    n = x.shape[1]
    hook = {"model_name": "gpt2", "hook_name": "blocks.8.hook_resid_pre", "context_size": 128, "prepend_bos": True}

    def filled(kind, config, given=None, reads=x, **options):
        metadata = sae.SAEMetadata(**(hook | options.pop("metadata", {})))
        made = kind(config(d_in=n, d_sae=M, device="cpu", metadata=metadata, **options))
        tensors = weights(reads) if given is None else given
        if hasattr(made, "threshold"):
            tensors["threshold"] = torch.rand(M, generator=DRAW) * 0.4 - 0.1  # of a few below 0 the ReLU comes first
        made.load_state_dict(made.state_dict() | tensors)
        return made

    factor = n**0.5 / float(x.norm(dim=1).mean())
    centred = x - x.mean(1, keepdim=True)
    scaled_by = {
        "constant_norm_rescale": x * n**0.5 / x.norm(dim=1, keepdim=True),
        "layer_norm": centred / centred.std(1, keepdim=True),
    }

    def judged(name, dtype=None, at=None):
        loaded = SAE.load_from_disk(at or folder / name, dtype=dtype)
        with torch.no_grad():
            features = loaded.encode(x)
            told(folder / name, features, loaded.decode(features))

    kinds = {
        "standard": (standard_sae.StandardSAE, standard_sae.StandardSAEConfig, {}),
        "topk": (topk_sae.TopKSAE, topk_sae.TopKSAEConfig, {"k": K}),
        "topk-rescaled": (topk_sae.TopKSAE, topk_sae.TopKSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": True}),
        "jumprelu": (jumprelu_sae.JumpReLUSAE, jumprelu_sae.JumpReLUSAEConfig, {}),
    }
    for name, (kind, config, options) in kinds.items():
        for subtracted in (True, False):
            case = name if subtracted else f"{name}-unsubtracted"
            filled(kind, config, apply_b_dec_to_input=subtracted, **options).save_model(folder / case)
            judged(case)
    for scaling in ("constant_norm_rescale", "layer_norm", "expected_average_only_in"):
        filled(*kinds["standard"][:2], reads=scaled_by.get(scaling, x), normalize_activations=scaling).save_model(
            folder / f"standard-{scaling}"
        )
        judged(f"standard-{scaling}")
    filled(*kinds["jumprelu"][:2]).to(torch.bfloat16).save_model(folder / "jumprelu-bfloat16")
    judged("jumprelu-bfloat16", dtype="float32")

    # Checkpoints of a training, beside what the same training saves when it ends; the factor of the activations is folded then.
    training = {
        "batchtopk": (batchtopk_sae.BatchTopKTrainingSAE, batchtopk_sae.BatchTopKTrainingSAEConfig, {"k": float(K)}),
        "matryoshka": (
            matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAE,
            matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAEConfig,
            {"k": float(K), "matryoshka_widths": [256, M]},
        ),
        "topk": (topk_sae.TopKTrainingSAE, topk_sae.TopKTrainingSAEConfig, {"k": K}),
        "jumprelu": (jumprelu_sae.JumpReLUTrainingSAE, jumprelu_sae.JumpReLUTrainingSAEConfig, {}),
    }
    for name, (kind, config, options) in training.items():
        for scaled in (False, True):
            if scaled:
                options = options | {"normalize_activations": "expected_average_only_in"}
            case = f"checkpoint-{name}" + ("-scaled" if scaled else "")
            made = filled(kind, config, reads=x * factor if scaled else x, **options)
            if hasattr(made, "topk_threshold"):
                made.topk_threshold.fill_(0.3)
            made.save_model(folder / case)
            if scaled:
                scaler = ActivationScaler()
                scaler.scaling_factor = factor
                scaler.save(str(folder / case / "activation_scaler.json"))
                made.fold_activation_norm_scaling_factor(scaler.scaling_factor)
            made.save_inference_model(folder / f"end-{case}")
            judged(f"end-{case}")
            judged(case, at=folder / f"end-{case}")
    # Files as versions before 6 wrote them: flat, other names.
    flat = {
        "hook_point": hook["hook_name"], "hook_point_layer": 8, "hook_point_head_index": None, "d_in": n, "d_sae": M, "model_name": "gpt2-small",
        "dtype": "torch.float32", "device": "cpu", "context_size": 128, "prepend_bos": False,
    }  # fmt: skip
    old = {
        "old-standard": ("standard", {}),
        "old-topk": ("topk", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}),
        "old-topk-layer-norm": ("topk", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "normalize_activations": "layer_norm"}),
        "old-jumprelu": ("jumprelu", {"architecture": "jumprelu", "apply_b_dec_to_input": False, "normalize_activations": False}),
    }  # fmt: skip
    from safetensors.torch import save_file

    for name, (kind, extra) in old.items():
        made = filled(*kinds[kind][:2], reads=scaled_by.get(extra.get("normalize_activations"), x), **kinds[kind][2])
        (folder / name).mkdir()
        tensors = made.state_dict() | ({"scaling_factor": torch.ones(M)} if kind == "standard" else {})
        save_file(
            {key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name / "sae_weights.safetensors"
        )
        (folder / name / "cfg.json").write_text(json.dumps(flat | extra))
        judged(name)

    refused = folder / "refused"
    filled(gated_sae.GatedSAE, gated_sae.GatedSAEConfig, {}).save_model(refused / "gated")
    filled(transcoder.Transcoder, transcoder.TranscoderConfig, {}, d_out=n, apply_b_dec_to_input=False).save_model(
        refused / "transcoder"
    )
    head = {"hook_name": "blocks.8.attn.hook_q", "hook_head_index": 3}
    filled(*kinds["standard"][:2], metadata=head).save_model(refused / "head")
    filled(*kinds["standard"][:2], normalize_activations="covariance_whitening").save_model(refused / "whitened")


def sparsify(x, folder):
    from sparsify import SparseCoder, SparseCoderConfig

    n = x.shape[1]

    def filled(**options):
        made = SparseCoder(n, SparseCoderConfig(**options))
        given = weights(x)
        tensors = {
            "encoder.weight": given["W_enc"].T,
            "encoder.bias": given["b_enc"],
            "W_dec": given["W_dec"],
            "b_dec": given["b_dec"],
        }
        made.load_state_dict(made.state_dict() | tensors)
        return made

    for name, options in {
        "layers.9": {"num_latents": M, "k": K},
        "layers.9.mlp": {"expansion_factor": M // n, "k": K, "normalize_decoder": False},
        "h.3.attn": {"num_latents": M, "k": 900},  # more than are positive: the rest is 0
    }.items():
        filled(**options).save_to_disk(folder / name)
        loaded = SparseCoder.load_from_disk(folder / name)
        with torch.no_grad():
            values, at, _ = loaded.encode(x)
            features = torch.zeros(len(x), M).scatter_(1, at, values)
            told(folder / name, features, loaded.decode(values, at))
    refused = folder / "refused"
    filled(num_latents=M, k=K, activation="groupmax").save_to_disk(refused / "groupmax")
    filled(num_latents=M, k=K, transcode=True).save_to_disk(refused / "transcode")
    filled(num_latents=M, k=K, skip_connection=True).save_to_disk(refused / "skip")


def dictionary_learning(x, folder):
    sys.modules["nnsight"] = stub = types.ModuleType("nnsight")  # reads models, which is not asked for here
    stub.LanguageModel = object
    from dictionary_learning import dictionary, trainers
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.utils import load_dictionary

    n = x.shape[1]
    common = {
        "steps": 4000, "activation_dim": n, "dict_size": M, "layer": 3, "lm_name": "EleutherAI/pythia-70m-deduped", "device": "cpu",
        "submodule_name": "resid_post_layer_3",
    }  # fmt: skip

    def saved(case, trainer, norm=True, threshold=0.3):
        given, made = weights(x, norm), trainer.ae
        linear = {
            "encoder.weight": given["W_enc"].T,
            "encoder.bias": given["b_enc"],
            "decoder.weight": given["W_dec"].T,
        }
        tensors = {
            key: value.contiguous()
            for key, value in {**given, **linear, "bias": given["b_dec"], "decoder.bias": given["b_dec"]}.items()
        }
        state = {key: tensors.get(key, value) for key, value in made.state_dict().items()}
        if "threshold" in state:
            jump = state["threshold"].dim() > 0
            state["threshold"] = torch.rand(M, generator=DRAW) * 0.4 - 0.1 if jump else torch.tensor(threshold)
        made.load_state_dict(state)
        (folder / case).mkdir(parents=True)
        torch.save({key: value.cpu() for key, value in made.state_dict().items()}, folder / case / "ae.pt")
        config = {"trainer": trainer.config, "buffer": {"ctx_len": 128, "d_submodule": n, "io": "out"}}
        (folder / case / "config.json").write_text(json.dumps(config))
        if case.startswith("refused"):
            return
        loaded, _ = load_dictionary(str(folder / case), "cpu")
        with torch.no_grad():
            features = loaded.encode(x)
            told(folder / case, features, loaded.decode(features))

    april = trainers.standard.StandardTrainerAprilUpdate
    saved("AutoEncoder", april(**common))
    saved("AutoEncoder-unit", trainers.StandardTrainer(**common), norm=False)
    new = april(**common, dict_class=dictionary.AutoEncoderNew)
    new_config = new.config | {"dict_class": "AutoEncoderNew"}
    saved("AutoEncoderNew", types.SimpleNamespace(ae=new.ae, config=new_config))
    saved("AutoEncoderTopK", trainers.TopKTrainer(**common, k=K))
    saved("BatchTopKSAE", trainers.BatchTopKTrainer(**common, k=K))
    matryoshka = MatryoshkaBatchTopKTrainer(**common, k=K, group_fractions=[0.25, 0.75])
    saved("MatryoshkaBatchTopKSAE", matryoshka)
    saved("JumpReluAutoEncoder", trainers.JumpReluTrainer(**common))
    saved("refused/GatedAutoEncoder", trainers.GatedSAETrainer(**common))
    saved("refused/threshold-never-set", trainers.BatchTopKTrainer(**common, k=K), threshold=-1.0)


if __name__ == "__main__":
    library, activations, out = sys.argv[1:]
    torch.manual_seed(0)
    {"saelens": saelens, "sparsify": sparsify, "dictionary_learning": dictionary_learning}[library](
        torch.from_numpy(np.load(activations)), Path(out)
    )
