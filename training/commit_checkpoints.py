"""Writes the state of every run into `checkpoints/`: averaged weights in half precision and the step.

Small enough for the repository, and enough to go on with: a run that finds no state of its own begins from there. The
optimiser's state, four times as large, is left out; its averages are warm again after some hundred steps.
"""

from __future__ import annotations

from safetensors.torch import save_file

import common

# The transformer's and the decoder's weights are whole in the bundle; finders and judge are trained anew within minutes.
RUNS = ("tokenizer", "text_encoder", "dinov2", "flux_vae")


def main() -> None:
    options = common.arguments(__doc__)
    common.SHIPPED.mkdir(exist_ok=True)
    for name in RUNS:
        folder = options.work / name
        if not (folder / "checkpoint.pt").exists():
            print(f"{name}: not begun")
            continue
        weights = {key: value.half().contiguous() for key, value in common.averaged(folder).items()}
        step = common.steps_of(folder)
        save_file(weights, common.SHIPPED / f"{name}.safetensors", {"step": str(step)})
        (common.SHIPPED / f"{name}.safetensors").chmod(0o644)
        print(f"{name}: step {step}")


if __name__ == "__main__":
    main()
