"""Writes the fixture `bsq-deep`: a tiny visual tokenizer with random weights, whose decoder has one level more than the
encoder.

`model.safetensors`, `config.json` and `io.safetensors` are as `crates/models/examples/parity/FIXTURES.md` describes them;
`reduced.json` has the errors of the same networks in bf16 and f16, with norms, SiLU and code sums in float32, as the
published code computes.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import common
from networks.bsq import BsqConfig, BsqTokenizer, Norm, bits_to_codes, quantise, resize, to_bytes

FOLDER = common.ROOT / "tests/fixtures/bsq-deep"
CONFIG = BsqConfig(bits=16, channels=8, multipliers=(1, 2), decoder_multipliers=(1, 2, 2), res_blocks=1, norm_groups=4)
SCALES = [(1, 1), (3, 2), (6, 5)]
BATCH = 2


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Weights of a size at which outputs of different inputs differ, and pictures keep within their range."""
    for name, value in model.named_parameters():
        spread = 0.5 if name.endswith("conv_out.conv.weight") else 1.0
        if value.ndim == 4:
            value.data.copy_(torch.randn(value.shape, generator=generator) * spread / math.sqrt(value[0].numel()))
        elif ".norm" in name and name.endswith("weight"):
            value.data.copy_(1 + 0.2 * torch.randn(value.shape, generator=generator))
        else:
            value.data.copy_(0.1 * torch.randn(value.shape, generator=generator))


def summed(bits: list[Tensor], size: tuple[int, int]) -> Tensor:
    return sum(resize(bits_to_codes(scale), size) for scale in bits)


def outputs(model: BsqTokenizer, image: Tensor, random: list[Tensor]) -> dict[str, Tensor]:
    latent = model.encode(image)
    bits, total, inputs = quantise(latent, SCALES)
    random_sum = summed(random, SCALES[-1])
    decoded = model.decode(random_sum)
    found = {f"out.bits.{scale}": entry.to(torch.uint8) for scale, entry in enumerate(bits)}
    return found | {
        "out.latent": latent, "out.summed": total, "out.transformer_inputs": torch.cat(inputs, 1),
        "out.decoded": model.decode(total), "out.random_summed": random_sum, "out.random_decoded": decoded,
        "out.random_rgb8": to_bytes(decoded),
    }


def reduced(weights: dict[str, Tensor], exact: dict[str, Tensor], image: Tensor, dtype: torch.dtype) -> dict[str, dict]:
    """Errors of the networks in a reduced type, from the exact code sums on."""
    model = BsqTokenizer(CONFIG)
    model.load_state_dict(weights)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
            module.register_forward_pre_hook(lambda _, given: (given[0].to(dtype),))
        elif isinstance(module, Norm):
            module.forward = lambda x, norm=module.norm: F.silu(norm(x.float()))
    found = {"out.latent": model.encode(image), "out.decoded": model.decode(exact["out.summed"]),
             "out.random_decoded": model.decode(exact["out.random_summed"])}
    same = {name: exact[name] for name in ("out.summed", "out.random_summed", "out.transformer_inputs")}
    return {name: errors(value.float(), exact[name]) for name, value in sorted((found | same).items())}


def errors(found: Tensor, exact: Tensor) -> dict[str, float]:
    apart = found - exact
    cosine = F.cosine_similarity(found.double().flatten(), exact.double().flatten(), 0)
    return {"max_rel": float(f"{apart.abs().max() / exact.abs().max():.4g}"),
            "rms_rel": float(f"{apart.square().mean().sqrt() / exact.square().mean().sqrt():.4g}"),
            "cosine": round(float(cosine), 9)}


@torch.no_grad()
def main() -> None:
    generator = torch.Generator().manual_seed(6)
    model = BsqTokenizer(CONFIG)
    initialise(model, generator)
    weights = model.state_dict()
    (height, width), factor = SCALES[-1], 2
    image = torch.rand(BATCH, 3, height * factor, width * factor, generator=generator) * 2 - 1
    random = [torch.randint(0, 2, (BATCH, *size, CONFIG.bits), generator=generator, dtype=torch.uint8) for size in SCALES]
    exact = outputs(model, image, random)
    given = {"in.image": image} | {f"in.random_bits.{scale}": entry for scale, entry in enumerate(random)}
    FOLDER.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, FOLDER / "model.safetensors")
    save_file({name: value.contiguous() for name, value in (given | exact).items()}, FOLDER / "io.safetensors")
    config = {"model": asdict(CONFIG), "batch": BATCH, "scales": SCALES}
    (FOLDER / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    found = {str(dtype).removeprefix("torch.").replace("bfloat", "bf").replace("float", "f"):
             reduced(weights, exact, image, dtype) for dtype in (torch.bfloat16, torch.float16)}
    made = {"made_with": {"torch": torch.__version__.partition("+")[0]}}
    (FOLDER / "reduced.json").write_text(json.dumps(made | found, indent=1) + "\n")
    for name, value in exact.items():
        print(name, tuple(value.shape), f"{float(value.float().abs().max()):.3f}")


if __name__ == "__main__":
    main()
