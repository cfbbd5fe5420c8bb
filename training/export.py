"""Writes the trained networks as a bundle: half-precision safetensors under the published names, and bundle.toml's numbers.

`export.py --bundle DIR` (default bundles/mini) takes the manifest there, sets sizes of the networks, sampling defaults,
lengths and sums, adds the tables of the networks that find subjects where they are missing, and leaves every other line
as it is. Which networks: `--networks` (default: all that have been trained). The judges of `echogen-eval` lie beside
them and are not in the manifest, since no chain needs them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import common
import settings
import train_detector
import train_namer
from features import part

DESCRIPTION = "All networks of the chain in small, trained on the project's own small world: pictures of 128 x 128."

SAMPLING = {
    "guidance_text": 4.0,
    "guidance_subject": 1.5,
    "temperature": 0.5,
    "top_p": 0.9,
    "pixel_budget": "0.004M",
    "subject_resolution": {"0.004M": settings.SIDE},
}


def transformer(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the buffers of zeros that published checkpoints have beside every bias that keys lack."""
    zeros = {}
    for name, value in weights.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "v_bias":
            zeros[f"{stem}.zero_k_bias"] = torch.zeros_like(value)
        elif leaf == "control_v_bias" and stem.endswith(".sa"):
            zeros[f"{stem}.control_zero_k_bias"] = torch.zeros_like(value)
    return weights | zeros


def encoder_only(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.startswith("encoder.")}


NETWORKS = {
    "text_encoder": ("text_encoder", lambda weights: part(weights, "encoder.")),
    "dinov2": ("dinov2", lambda weights: part(weights, "encoder.")),
    "flux_vae": ("flux_vae", encoder_only),
    "visual_tokenizer": ("tokenizer", lambda weights: weights),
    "transformer": ("transformer", transformer),
    "detector": ("detector", train_detector.published),
    "namer": ("namer", train_namer.published),
    "judge": ("judge", lambda weights: part(weights, "judge.")),
    "markings": ("markings", lambda weights: weights),
}

# Networks whose settings and tokenizer are files beside their weights.
FINDERS = {
    "detector": ("Finds the subject by its name.", lambda run: train_detector.published_config()),
    "namer": ("Says what the subject is called.", lambda run: json.loads((run / "config.json").read_text())
              | {"max_pixels": train_namer.MAX_PIXELS}),
}

CONFIGS = {
    "text_encoder": asdict(settings.TEXT_ENCODER),
    "dinov2": asdict(settings.DINOV2),
    "flux_vae": asdict(settings.FLUX_VAE),
    "visual_tokenizer": asdict(settings.SHIPPED_TOKENIZER),
    "transformer": asdict(settings.TRANSFORMER),
}


def weights_of(work: Path, run: str) -> dict[str, Tensor]:
    """A run's averaged weights; of the tokenizer the encoder, with the decoder that was trained on its bits."""
    weights = common.averaged(work / run)
    if run == "tokenizer":
        encoder = {name: value for name, value in weights.items() if name.startswith("encoder.")}
        decoder = common.averaged(work / "decoder").items()
        return encoder | {name: value for name, value in decoder if name.startswith("decoder.")}
    return weights


def toml(value) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return "{ " + ", ".join(f'"{key}" = {toml(entry)}' for key, entry in value.items()) + " }"
        case float():
            return repr(value).replace("e-0", "e-")
    return str(value)


def write_finder(network: str, run: Path, folder: Path, manifest: Path) -> None:
    """Settings and tokenizer, and the manifest's table if it has none."""
    comment, config = FINDERS[network]
    files = [f"{network}.safetensors", f"{network}.config.json", f"{network}.tokenizer.json"]
    (folder / files[1]).write_text(json.dumps(config(run), indent=1) + "\n")
    (folder / files[2]).write_text((run / "tokenizer.json").read_text())
    text = manifest.read_text()
    if f"[{network}]\n" in text:
        return
    text += f'\n# {comment}\n[{network}]\nconfig_file = "{files[1]}"\nweights = ["{files[0]}"]\n'
    text += f'tokenizer = "{files[2]}"\n'
    for file in files:
        text += f'\n[[{network}.files]]\npath = "{file}"\nlicence = "MIT OR Apache-2.0"\nsize = 0\nsha256 = ""\n'
    manifest.write_text(text)


def filled(manifest: str, folder: Path, networks: list[str]) -> str:
    """The manifest with our numbers in the tables of these networks; lengths and sums of all files."""
    lines, table, content = [], "", b""
    for line in manifest.splitlines():
        key, equals, _ = line.partition(" = ")
        if line.startswith("["):
            table = line.strip("[]")
        values = {}
        if table == "sampling" and "transformer" in networks:
            values = SAMPLING
        elif table.endswith(".config") and table.removesuffix(".config") in networks:
            values = CONFIGS[table.removesuffix(".config")]
        elif not table and "visual_tokenizer" in networks:
            values = {"description": DESCRIPTION}
        if equals and key == "path":
            content = (folder / line.partition(" = ")[2].strip('"')).read_bytes()
        elif equals and key == "size":
            line = f"size = {len(content)}"
        elif equals and key == "sha256":
            line = f'sha256 = "{hashlib.sha256(content).hexdigest()}"'
        elif equals and key in values:
            line = f"{key} = {toml(values[key])}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    options = common.arguments(__doc__, bundle=str(common.ROOT / "bundles/mini"), networks=",".join(NETWORKS))
    folder, chosen = Path(options.bundle), options.networks.split(",")
    manifest = folder / "bundle.toml"
    for network in chosen:
        run, select = NETWORKS[network]
        needed = [run, "decoder"] if run == "tokenizer" else [run]
        is_trained = all((options.work / run / "checkpoint.pt").exists() for run in needed)
        if options.networks == ",".join(NETWORKS) and not is_trained:
            print(f"{network}: not trained")
            continue
        if network in FINDERS:
            write_finder(network, options.work / run, folder, manifest)
        weights = select(weights_of(options.work, run))
        halves = {name: value.half().contiguous() for name, value in weights.items()}
        worst = max(float(value.abs().max()) for value in halves.values())
        if not worst < 60_000:
            raise ValueError(f"{network} has a weight of {worst}, which half precision cannot hold")
        step = common.steps_of(options.work / needed[-1])
        save_file(halves, folder / f"{network}.safetensors", {"step": str(step)})
        (folder / f"{network}.safetensors").chmod(0o644)
        print(f"{network}: {sum(value.numel() for value in halves.values()):,} numbers")
    manifest.write_text(filled(manifest.read_text(), folder, chosen))


if __name__ == "__main__":
    main()
