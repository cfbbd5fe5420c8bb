"""Checks the networks here against the project's fixtures, so that what is trained is what the Rust program computes."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file
from torch import Tensor

import common
from networks.bsq import BsqConfig, BsqTokenizer, quantise
from networks.dinov2 import Dinov2, Dinov2Config
from networks.echogen import EchoGen, EchoGenConfig, Subject
from networks.flux_vae import FluxVae, FluxVaeConfig
from networks.t5 import T5Config, T5Encoder

FIXTURES = common.ROOT / "tests/fixtures"
TOLERANCE = 1e-4


def read(name: str) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    folder = FIXTURES / name
    config = json.loads((folder / "config.json").read_text())
    return config, load_file(folder / "model.safetensors"), load_file(folder / "io.safetensors")


def chosen(kind: type, config: dict) -> dict:
    return {key: config[key] for key in kind.__dataclass_fields__ if key in config}


def compare(name: str, found: Tensor, expected: Tensor) -> None:
    error = float((found - expected).abs().max() / expected.abs().max())
    print(f"{name}: {error:.1e}")
    if not error < TOLERANCE:
        raise SystemExit(f"{name} is off by {error}")


@torch.no_grad()
def main() -> None:
    config, weights, io = read("t5")
    encoder = T5Encoder(T5Config(**chosen(T5Config, config)))
    encoder.load_state_dict({key: weights[key] for key in encoder.state_dict()})
    for way in ("", "long."):
        visible = io[f"in.{way}attention_mask"].bool()
        found = encoder(io[f"in.{way}input_ids"], visible)
        compare(f"t5 {way}", found[visible], io[f"out.{way}last_hidden_state"][visible])

    config, weights, io = read("dinov2")
    config["image_size"] = 56
    dinov2 = Dinov2(Dinov2Config(**chosen(Dinov2Config, config)))
    weights["embeddings.position_embeddings"] = io["out.pos_embed_resampled"]
    dinov2.load_state_dict({key: weights[key] for key in dinov2.state_dict()})
    prepared = dinov2.prepare(io["in.image"])
    compare("dinov2 input", prepared, io["out.resized"])
    cls, patches = dinov2(prepared)
    compare("dinov2 class", cls, io["out.x_norm_clstoken"])
    compare("dinov2 patches", patches, io["out.x_norm_patchtokens"])

    config, weights, io = read("flux-vae")
    vae = FluxVae(FluxVaeConfig(**chosen(FluxVaeConfig, config)))
    vae.load_state_dict(weights)
    mean, logvar = vae.encoder(io["in.image"])
    compare("flux mean", mean, io["out.mean"])
    compare("flux log-variance", logvar, io["out.logvar"])
    compare("flux decoded", vae.decoder(io["out.mean"]), io["out.decoded"])

    for fixture in ("bsq-tiny", "bsq-deep"):
        config, weights, io = read(fixture)
        tokenizer = BsqTokenizer(BsqConfig(**chosen(BsqConfig, config["model"])))
        tokenizer.load_state_dict({key: weights[key] for key in tokenizer.state_dict()})
        latent = tokenizer.encode(io["in.image"])
        compare(f"{fixture} latent", latent, io["out.latent"])
        _, summed, inputs = quantise(latent, config["scales"])
        compare(f"{fixture} codes", summed, io["out.summed"])
        compare(f"{fixture} inputs", torch.cat(inputs, 1), io["out.transformer_inputs"])
        compare(f"{fixture} decoded", tokenizer.decode(io["out.summed"]), io["out.decoded"])

    config, weights, io = read("echogen-tiny")
    model = EchoGen(EchoGenConfig(**chosen(EchoGenConfig, config["model"])))
    if missing := model.load_official(weights):
        raise SystemExit(f"the transformer lacks {missing}")
    text = [io[f"in.text.{index}"] for index in range(config["batch"])]
    subject = Subject(io["in.cls"], io["in.patches"], io["in.content"].flatten(2).transpose(1, 2))
    for name, case in config["cases"].items():
        schedule, full = case["scales"], [case["rope_grid"]]
        logits = model(text, subject, io[f"in.{name}.tf.inputs"], schedule, full)
        compare(f"transformer, {name}", logits, io[f"out.{name}.tf.logits"])


if __name__ == "__main__":
    main()
