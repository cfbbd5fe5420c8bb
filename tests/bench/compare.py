#!/usr/bin/env python3
"""Runs the same random weights through this project and through PyTorch, and prints the ratios.

    python3 tests/bench/compare.py --reference DIR [--rounds 3] [PART ...]

DIR holds the independent PyTorch implementation (`echogen_torch.py`, `bsq_torch.py`); it is run from there, not copied.
PyTorch, safetensors, transformers and diffusers must be importable. Both sides use two threads and float32, each
part in a process of its own, the two in turn; the medians are compared. Ratio 2 means twice PyTorch's speed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
THREADS = 2
PARTS = {
    # part: (which weights, PyTorch's part, target ratio)
    "sampling-three-rows": ("transformer", "sampling", 1.0),
    "sampling-default": ("transformer", "sampling", 1.6),
    "sampling-second": ("transformer", "sampling", 3.0),
    "decode": ("tokenizer", "decode", 0.8),
    "dinov2": ("dinov2", "dinov2", 0.8),
    "vae-encoder": ("vae", "vae-encoder", 0.8),
    "grounding-dino": ("grounding-dino", "grounding-dino", 0.8),
}


def networks(kind: str):
    import torch

    torch.manual_seed(0)
    if kind == "transformer":
        import echogen_torch as eg

        return eg.EchoGen(eg.CONFIG_125M).eval()
    if kind == "tokenizer":
        import bsq_torch as bsq

        return bsq.BsqTokenizer(bsq.BsqConfig(bits=16)).eval()
    if kind == "dinov2":
        from transformers import Dinov2Config, Dinov2Model

        return Dinov2Model(Dinov2Config(image_size=518, patch_size=14)).eval()
    if kind == "grounding-dino":
        from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

        return GroundingDinoForObjectDetection(GroundingDinoConfig()).eval()
    from diffusers import AutoencoderKL

    blocks = 4
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * blocks, up_block_types=["UpDecoderBlock2D"] * blocks,
        block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=16, norm_num_groups=32,
        use_quant_conv=False, use_post_quant_conv=False,
    ).eval()


def write_weights(kind: str, path: Path) -> None:
    """Random weights in the published layout; matrices are drawn so that activations stay in range."""
    import torch
    from safetensors.torch import save_file

    if kind == "grounding-dino":
        return write_published(networks(kind), path)
    state = networks(kind).state_dict()
    torch.manual_seed(1)
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.dim() > 1 and kind == "transformer":
            fan_in = tensor[0].numel()
            state[name] = torch.randn(tensor.shape) * (0.5 if tensor.dim() != 2 else fan_in**-0.5)
    if kind == "dinov2":
        state = published_dinov2(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def write_published(model, path: Path) -> None:
    """The library itself writes the published names; its file is moved to where ours are."""
    import torch

    with torch.no_grad():
        # The last layer of a fresh box head is zero and its scores are all alike: draw it, so that boxes move.
        for name, tensor in model.named_parameters():
            if "bbox_embed" in name:
                torch.nn.init.normal_(tensor, std=0.05)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        Path(folder, "model.safetensors").rename(path)


def published_dinov2(state: dict) -> dict:
    """Newer libraries rename keys in memory; files keep the published names."""
    renamed = {}
    for name, tensor in state.items():
        for memory, file in (("attention.q_proj", "attention.attention.query"), ("attention.k_proj", "attention.attention.key"),
                             ("attention.v_proj", "attention.attention.value"), ("attention.o_proj", "attention.output.dense")):
            name = name.replace(memory, file)
        renamed[name.replace("layers.", "layer.") if name.startswith("encoder.layers.") else name] = tensor
    return renamed


def torch_run(part: str, weights: Path):
    import torch
    from safetensors.torch import load_file

    if part == "sampling":
        import echogen_torch as eg

        model = networks("transformer")
        model.load_official(load_file(weights))
        config, table = model.cfg, eg.load_schedules()
        schedule, full = eg.schedule_for(table, 1.0, "0.06M")
        text = [torch.randn(32, config.text_channels)]
        subject = eg.Subject(torch.randn(1, config.semantic_dim), torch.randn(1, config.semantic_len - 1, config.semantic_dim),
                             torch.randn(1, config.content_len, config.content_dim))
        return lambda: model.sample(text, subject, schedule, full, cfg_text=3.0)
    if part == "decode":
        model = networks("tokenizer")
        model.load_official(load_file(weights))
        codes = torch.randn(1, 16, 16, 16)
        return lambda: model.decode(codes)
    if part == "dinov2":
        model, image = networks("dinov2"), torch.randn(1, 3, 256, 256)
        resize = torch.nn.functional.interpolate
        return lambda: model(pixel_values=resize(image, 224, mode="bicubic")).last_hidden_state
    if part == "grounding-dino":
        from transformers import GroundingDinoForObjectDetection

        config = networks("grounding-dino").config
        model = GroundingDinoForObjectDetection.from_pretrained(None, config=config, state_dict=load_file(weights)).eval()
        image, caption = torch.randn(1, 3, 800, 800), torch.tensor([[101, 1037, 2417, 3899, 1012, 1037, 4937, 2006, 1012, 102]])
        return lambda: model(pixel_values=image, input_ids=caption).logits
    model, image = networks("vae"), torch.randn(1, 3, 256, 256)
    return lambda: model.encode(image).latent_dist.mean


def torch_worker(part: str, weights: Path, runs: int) -> None:
    import torch

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    run = torch_run(part, weights)
    run()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"part": part, "seconds": seconds, "peak_mib": peak}))


def measure(command: list, environment: dict) -> dict:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def bench_binary() -> str:
    """Builds the benchmark and returns where it lies."""
    build = ["cargo", "bench", "--locked", "-p", "echogen-models", "--bench", "networks", "--no-run", "--message-format=json"]
    done = subprocess.run(build, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line).get("executable") for line in done.stdout.splitlines() if line.startswith("{")]
    return [path for path in found if path][-1]


def compare(arguments) -> bool:
    environment = {**os.environ, "RAYON_NUM_THREADS": str(THREADS), "OMP_NUM_THREADS": str(THREADS)}
    environment["PYTHONPATH"] = str(arguments.reference)
    binary, met = bench_binary(), True
    print(f"{'part':22} {'ours s':>8} {'torch s':>8} {'ratio':>6} {'target':>6} {'ours MiB':>9} {'torch MiB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.parts or PARTS:
            kind, theirs, target = PARTS[part]
            weights = Path(folder) / f"{kind}.safetensors"
            if not weights.exists():
                subprocess.run([sys.executable, __file__, "--write", kind, "--weights", weights], env=environment, check=True)
            ours, torch = [], []
            for _ in range(arguments.rounds):
                ours.append(measure([binary, part, "--weights", weights, "--runs", "1"], environment))
                worker = [sys.executable, __file__, "--torch", theirs, "--weights", weights]
                torch.append(measure(worker, environment))
            met &= report(part, target, ours, torch)
    return met


def report(part: str, target: float, ours: list, torch: list) -> bool:
    def seconds(runs):
        return statistics.median(s for run in runs for s in run["seconds"])

    def peak(runs):
        return max(run["peak_mib"] for run in runs)

    ratio = seconds(torch) / seconds(ours)
    print(f"{part:22} {seconds(ours):8.2f} {seconds(torch):8.2f} {ratio:6.2f} {target:6.1f} {peak(ours):9.0f} {peak(torch):9.0f}", flush=True)
    return ratio >= target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--reference", type=Path, help="folder with echogen_torch.py and bsq_torch.py")
    parser.add_argument("--rounds", type=int, default=3, help="counted processes of each side, in turn")
    parser.add_argument("--torch", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_weights(arguments.write, arguments.weights)
    elif arguments.torch:
        torch_worker(arguments.torch, arguments.weights, 1)
    elif not arguments.reference:
        parser.error("--reference is needed: the folder with echogen_torch.py and bsq_torch.py")
    elif unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"unknown parts {unknown}; there are {', '.join(PARTS)}")
    else:
        arguments.reference = arguments.reference.resolve()
        sys.exit(0 if compare(arguments) else 1)


if __name__ == "__main__":
    main()
