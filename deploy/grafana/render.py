#!/usr/bin/env python3
"""Draws a dashboard as one picture, from a Prometheus under load; Grafana is not needed.

    pip install -r deploy/grafana/requirements.txt
    deploy/grafana/render.py --prometheus http://127.0.0.1:9090 --minutes 60 --out docs/dashboard.png

It reads the same JSON as Grafana, asks the same queries, and lays the panels out at the same places.
"""

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import dates, pyplot  # noqa: E402 -- the backend has to be chosen first

FOLDER = Path(__file__).resolve().parent / "dashboards"
COLUMNS = 24
SCALES = {"s": (1, "s"), "ops": (1, "/s"), "percentunit": (100, "%"), "currencyUSD": (1, "$"), "bytes": (1 / 2**30, "GiB")}
SCALES |= {"celsius": (1, "°C"), "watt": (1, "W"), "hertz": (1e-6, "MHz")}


class Server:
    """A Prometheus, and the time to ask it about."""

    def __init__(self, address, minutes, end):
        self.address, self.end = address.rstrip("/"), end
        self.start = end - minutes * 60
        self.step = max(5, minutes * 60 // 300)

    def ask(self, path, **question):
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(question)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]["result"]

    def over_time(self, expression):
        return self.ask("query_range", query=expression, start=self.start, end=self.end, step=self.step)

    def now(self, expression):
        return self.ask("query", query=expression, time=self.end)


def variables(board, server, given):
    """Grafana's variables: what is given, else what the dashboard begins with."""
    found = {"__rate_interval": f"{max(60, server.step * 4)}s"}
    for each in board["templating"]["list"]:
        # An installation that is not chosen is all of them.
        first = ".*" if each["type"] == "query" else each["current"].get("value", "")
        found[each["name"]] = given.get(each["name"], first)
    return found


def filled_in(expression, known):
    return re.sub(r"\$\{?(\w+)\}?", lambda match: known[match[1]], expression)


def legend(target, labels):
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), target["legendFormat"]).strip()


def draw_lines(axes, panel, server, known):
    defaults = panel["fieldConfig"]["defaults"]
    factor, unit = SCALES.get(defaults["unit"], (1, ""))
    drawn = []
    for target in panel["targets"]:
        for series in server.over_time(filled_in(target["expr"], known)):
            times = [datetime.fromtimestamp(when, UTC) for when, _ in series["values"]]
            drawn.append((legend(target, series["metric"]), times, [float(value) * factor for _, value in series["values"]]))
    drawn.sort()
    if "stacking" in defaults["custom"] and drawn:
        moments = sorted({when for _, times, _ in drawn for when in times})
        rows = [[dict(zip(times, values, strict=False)).get(when, 0) for when in moments] for _, times, values in drawn]
        rows = [[0 if math.isnan(value) else value for value in row] for row in rows]
        axes.stackplot(moments, rows, labels=[name for name, _, _ in drawn], alpha=0.7)
    else:
        for name, times, values in drawn:
            axes.plot(times, values, label=name, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit, fontsize=7)
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.grid(alpha=0.2)
    if 0 < len(drawn) <= 16 and any(name for name, _, _ in drawn):
        axes.legend(fontsize=5, loc="upper left", ncols=2, framealpha=0.6)


def draw_number(axes, panel, server, known):
    defaults = panel["fieldConfig"]["defaults"]
    factor, unit = SCALES.get(defaults["unit"], (1, ""))
    found = server.now(filled_in(panel["targets"][0]["expr"], known))
    value = float(found[0]["value"][1]) * factor if found else math.nan
    colour = "#555555"
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value / factor >= step["value"]:
            colour = {"green": "#2e7d32", "yellow": "#c79100", "red": "#c62828"}[step["color"]]
    text = "no data" if math.isnan(value) else f"{value:,.{0 if abs(value) >= 100 else 1}f} {unit}".strip()
    axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=15, color=colour, weight="bold")
    axes.axis("off")


def draw_table(axes, panel, server, known):
    found = server.now(filled_in(panel["targets"][0]["expr"], known))
    rows = [[value[:16] for value in series["metric"].values()] + [series["value"][1]] for series in found[:8]]
    axes.axis("off")
    if rows:
        axes.table(rows, colLabels=[*found[0]["metric"], "count"], loc="center").auto_set_font_size(True)


def draw_heat(axes, panel, server, known):
    """Buckets from below to above; what Prometheus counts up to a bound, less what it counts up to the one before."""
    found = server.over_time(filled_in(panel["targets"][0]["expr"], known))
    found.sort(key=lambda series: float(series["metric"]["le"]))
    counts = [[float(value) for _, value in series["values"]] for series in found]
    if counts:
        width = min(len(row) for row in counts)
        below = [[0] * width, *counts]
        pairs = zip(counts, below, strict=False)
        rows = [[max(0, now - less) for now, less in zip(row, under, strict=False)][:width] for row, under in pairs]
        axes.imshow(rows, aspect="auto", origin="lower", cmap="Oranges", interpolation="nearest")
        axes.set_yticks(range(len(found)), [series["metric"]["le"] for series in found], fontsize=5)
        axes.set_xticks([])


DRAW = {"timeseries": draw_lines, "stat": draw_number, "table": draw_table, "heatmap": draw_heat}


def draw(board, server, known):
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = pyplot.figure(figsize=(16, rows * 0.42), dpi=110)
    grid = figure.add_gridspec(rows, COLUMNS, wspace=3.5, hspace=11, left=0.04, right=0.985, top=0.95, bottom=0.02)
    for panel in board["panels"]:
        place = panel["gridPos"]
        axes = figure.add_subplot(grid[place["y"] : place["y"] + place["h"], place["x"] : place["x"] + place["w"]])
        axes.set_title(panel["title"], fontsize=8, loc="left")
        axes.tick_params(labelsize=6)
        DRAW[panel["type"]](axes, panel, server, known)
    ended = datetime.fromtimestamp(server.end, UTC)
    figure.suptitle(f"{board['title']}, until {ended:%Y-%m-%d %H:%M} UTC", fontsize=11, x=0.04, ha="left")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--dashboard", default="overview", choices=sorted(path.stem.removeprefix("echogen-") for path in FOLDER.glob("*.json")))
    parser.add_argument("--minutes", type=int, default=60, help="how far back")
    parser.add_argument("--end", type=float, help="until when, in seconds since 1970; otherwise now")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable, such as stage=encoder")
    parser.add_argument("--out", type=Path, default=Path("dashboard.png"))
    arguments = parser.parse_args()
    board = json.loads((FOLDER / f"echogen-{arguments.dashboard}.json").read_text(encoding="utf-8"))
    server = Server(arguments.prometheus, arguments.minutes, arguments.end or time.time())
    known = variables(board, server, dict(each.split("=", 1) for each in arguments.set))
    draw(board, server, known).savefig(arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
