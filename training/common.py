"""What all trainers share: data, checkpoints that survive being killed, learning rates, averages, loss plots."""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "training/checkpoints"
DTYPES = {"U8": np.uint8, "I32": np.int32, "I64": np.int64, "F32": np.float32, "F16": np.float16}


# ---------------------------------------------------------------------------------------------------------------
# Data


class Shards:
    """Columns of the world's shards, mapped into memory, so that trainers beside each other share the pages."""

    def __init__(self, folder: Path):
        self.paths = sorted(folder.glob("*.safetensors"))
        if not self.paths:
            raise FileNotFoundError(f"{folder} has no shards; render them first")
        self.columns: dict[str, list[np.memmap]] = {}
        for path in self.paths:
            for name, column in mapped(path).items():
                self.columns.setdefault(name, []).append(column)
        counts = [len(column) for column in next(iter(self.columns.values()))]
        self.starts = np.concatenate(([0], np.cumsum(counts)))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        parts = self.columns[name]
        return np.stack([parts[s][row - self.starts[s]] for s, row in zip(shard, rows)])

    def captions(self) -> list[str]:
        lines = [line for path in self.paths for line in path.with_suffix(".jsonl").read_text().splitlines()]
        return [json.loads(line) for line in lines]


def mapped(path: Path) -> dict[str, np.memmap]:
    """The tensors of a safetensors file, without reading them."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: np.memmap(path, DTYPES[entry["dtype"]], "r", 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))
        for name, entry in header.items()
    }


def to_images(pixels: np.ndarray) -> Tensor:
    """Bytes (B, H, W, 3) to (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def to_bytes(images: Tensor) -> np.ndarray:
    return ((images.clamp(-1, 1) + 1) / 2 * 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()


def rows_of_step(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Which examples a step sees: a function of its number, so that a resumed run goes on as if never stopped."""
    return np.random.default_rng([seed, step]).integers(0, count, batch)


# ---------------------------------------------------------------------------------------------------------------
# Runs


def arguments(description: str, **defaults) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, default=Path(os.environ.get("ECHOGEN_TRAIN", ROOT / "train")),
                        help="folder of data and checkpoints")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0 runs to the last step")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    torch.manual_seed(0)
    return parsed


class Average:
    """Exponential average of the weights; what is exported and evaluated."""

    def __init__(self, model: nn.Module, decay: float = 0.999):
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)


class Run:
    """A training run in a folder: its step, its weights, its optimiser, its log."""

    def __init__(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int, rate: float,
                 minutes: float = 0.0, warmup: int = 200, save_seconds: float = 120.0, decay: float = 0.999,
                 is_committed: bool = True):
        self.folder, self.model, self.optimizer = folder, model, optimizer
        self.steps, self.rate, self.warmup, self.save_seconds = steps, rate, warmup, save_seconds
        self.average = Average(model, decay)
        self.step = 0
        self.started = self.saved = time.monotonic()
        self.deadline = self.started + 60 * minutes if minutes else float("inf")
        self.sums: dict[str, list[float]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "checkpoint.pt").exists():
            self.restore()
        elif is_committed and (shipped := next(filter(Path.exists, shipped_files(folder.name)), None)):
            self.restore_shipped(shipped)

    def restore(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.average.values = state["average"]
        self.step = state["step"]
        print(f"{self.folder.name}: goes on from step {self.step}", flush=True)

    def restore_shipped(self, path: Path) -> None:
        """From a committed checkpoint: averaged weights in half precision and the step, without the optimiser."""
        own = self.model.state_dict().keys()
        with safe_open(path, "pt") as file:
            # A bundle's file has the published checkpoints' buffers of zeros besides.
            weights = {name: file.get_tensor(name).float() for name in file.keys() if name in own}
            self.step = int(file.metadata()["step"])
        # A bundle has no discriminator.
        weights |= {name: value for name, value in self.model.state_dict().items() if name.startswith("discriminator.")}
        self.model.load_state_dict(weights)
        self.average.values = {name: value.clone() for name, value in self.model.state_dict().items()}
        print(f"{self.folder.name}: goes on from the committed step {self.step}", flush=True)

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Takes what fits of another run's weights, where this run has not begun yet."""
        if self.step:
            return
        own = self.model.state_dict()
        fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
        self.model.load_state_dict(fitting, strict=False)
        self.average = Average(self.model, self.average.decay)

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "average": self.average.values, "step": self.step}
        partial = self.folder / f"checkpoint.{os.getpid()}.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / "checkpoint.pt")
        self.saved = time.monotonic()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again after."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.values)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def learning_rate(self) -> float:
        """Up over the warm-up, level, then down over the last fifth."""
        left = (self.steps - self.step) / (0.2 * self.steps)
        return self.rate * min(1.0, (self.step + 1) / self.warmup, max(left, 0.02))

    def __iter__(self):
        """Yields step numbers until the last step or the deadline; saves on the way and at the end."""
        while self.step < self.steps and time.monotonic() < self.deadline:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate() * group.get("factor", 1.0)
            yield self.step
            self.step += 1
            self.average.update(self.model, self.step)
            if time.monotonic() - self.saved > self.save_seconds:
                self.save()
        self.save()

    def descend(self, loss: Tensor, clip: float = 1.0) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()

    def log(self, every: int = 50, **values: float) -> None:
        for name, value in values.items():
            self.sums.setdefault(name, []).append(float(value))
        if (self.step + 1) % every:
            return
        means = {name: sum(numbers) / len(numbers) for name, numbers in self.sums.items()}
        self.sums.clear()
        row = {"step": self.step + 1, "seconds": round(time.monotonic() - self.started, 1), **means}
        path = self.folder / "log.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        print(self.folder.name, " ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)


def shipped_files(run: str) -> list[Path]:
    """Where a run's weights may lie in the repository: with all that training needs, or as the bundle has them."""
    in_bundle = {"transformer": "transformer", "decoder": "visual_tokenizer"}
    paths = [SHIPPED / f"{run}.safetensors"]
    return paths + [ROOT / f"bundles/mini/{in_bundle[run]}.safetensors"] if run in in_bundle else paths


def steps_of(folder: Path) -> int:
    return torch.load(folder / "checkpoint.pt", weights_only=True, mmap=True)["step"]


def averaged(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of a run."""
    return torch.load(folder / "checkpoint.pt", weights_only=True)["average"]


def adamw(model: nn.Module, rate: float, weight_decay: float = 0.02) -> torch.optim.AdamW:
    """Decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.97), eps=1e-8)


def tile(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Pictures (N, H, W, 3) side by side."""
    rows = [np.concatenate(list(pictures[i : i + columns]), axis=1) for i in range(0, len(pictures), columns)]
    return np.concatenate([row for row in rows if row.shape[1] == rows[0].shape[1]])
