"""Draws the loss curves of every run in the work folder: `curves.png` beside each run's log."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import common  # noqa: E402


def draw(log: Path) -> None:
    with log.open() as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    names = [name for name in rows[0] if name not in ("step", "seconds")]
    figure, panels = plt.subplots(1, len(names), figsize=(3.2 * len(names), 2.6), squeeze=False)
    for panel, name in zip(panels[0], names):
        panel.plot([int(row["step"]) for row in rows], [float(row[name]) for row in rows], linewidth=1)
        panel.set_title(name, fontsize=9)
        panel.grid(alpha=0.3)
    figure.suptitle(log.parent.name, fontsize=10)
    figure.tight_layout()
    figure.savefig(log.with_name("curves.png"), dpi=90)
    plt.close(figure)


def main() -> None:
    options = common.arguments(__doc__)
    for log in sorted(options.work.glob("*/log.csv")):
        draw(log)
        print(log.with_name("curves.png"))


if __name__ == "__main__":
    main()
