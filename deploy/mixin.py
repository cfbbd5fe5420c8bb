#!/usr/bin/env python3
"""Writes Prometheus's recording rules and alerts from their sources and one file of values.

    deploy/mixin.py --values mine.yaml --out rules/

The sources are prometheus/mixin/rules/, in which `<name>` is to be filled in, and the objectives, whose rules are made
here. The chart ships the same sources (`sources()`) and fills them in from its values.
"""

import argparse
import re
import sys
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent / "prometheus"
SOURCES = FOLDER / "mixin/rules"
VALUES = FOLDER / "mixin/values.yaml"
RUNBOOK = "runbook: docs/operations.md"
# What an objective of 30 days is alerted by (Google's SRE workbook, chapter 5): how many times faster than planned the error
# budget is used, over a long window, and over a short one, so that the alert ends soon after its cause.
PAGE = [(14.4, "1h", "5m"), (6, "6h", "30m")]
TICKET = [(3, "1d", "2h"), (1, "3d", "6h")]
WINDOWS = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"]
BUDGET_WINDOW = "30d"
BAD = 'outcome=~"failed|expired|parked"'
COUNTED = 'outcome=~"completed|failed|expired|parked"'


class Indented(yaml.SafeDumper):
    """Writes lists as they are written by hand, which yamllint asks for."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, indentless=False)


def rule(name, expression, **labels):
    return {"record": name, "expr": expression} | ({"labels": labels} if labels else {})


def ended(lane, window, matchers, part="count"):
    """Jobs of a lane each second."""
    return f'sum by (<installation>, lane) (rate(echogen_job_seconds_{part}{{<selector>lane="{lane}",{matchers}}}[{window}]))'


def error_ratios(lane, window):
    """The shares of a lane's jobs that broke an objective."""
    name = f"lane_slo:echogen_errors:ratio_rate{window}"
    # Prometheus 3 writes a bound of 60 as 60.0.
    completed = 'outcome="completed"'
    in_time = f'{completed},le=~"<latency_seconds_{lane}>([.]0)?"'
    late = f"1 - {ended(lane, window, in_time, 'bucket')} / {ended(lane, window, completed)}"
    # Without a bad end there may be no series of one, and that is a ratio of 0.
    counted = ended(lane, window, COUNTED)
    bad = f"({ended(lane, window, BAD)} or 0 * {counted})"
    yield rule(name, f"{bad} / {counted}", lane=lane, slo="availability")
    yield rule(name, late, lane=lane, slo="latency")


def budgets(lane):
    """What of a lane's jobs may break an objective; for each installation, so that two may have promised differently."""
    known = "group by (<installation>) (echogen_build_info{<selector>})"
    for slo in ("availability", "latency"):
        expression = f"(1 - <{slo}_{lane}>) * {known}"
        yield rule("lane_slo:echogen_error_budget:ratio", expression, lane=lane, slo=slo)


def burn_alert(name, severity, pairs, lanes, wait):
    def above(factor, window):
        matchers = f'{{<selector>lane=~"{lanes}"}}'
        return f"lane_slo:echogen_errors:ratio_rate{window}{matchers} > {factor} * lane_slo:echogen_error_budget:ratio{matchers}"

    burning = " or ".join(f"({above(factor, long)} and {above(factor, short)})" for factor, long, short in pairs)
    busy = "lane:echogen_jobs:increase1h{<selector>} >= <slo_least_jobs>"
    return {
        "alert": name,
        "expr": f"({burning}) and on (<installation>, lane) {busy}",
        "for": wait,
        "labels": {"severity": severity},
        "annotations": {
            "summary": "{{ $value | humanizePercentage }} of the {{ $labels.lane }} jobs break the objective {{ $labels.slo }}",
            "description": "The error budget of 30 days is being used up several times faster than it may be.",
            "runbook": f"docs/operations.md#{name.lower()}",
        },
    }


def objectives(lanes):
    """The rules and alerts of the objectives."""
    ratios = [each for lane in lanes for window in WINDOWS for each in error_ratios(lane, window)]
    jobs = f"sum by (<installation>, lane) (increase(echogen_job_seconds_count{{<selector>{COUNTED}}}[1h]))"
    fast = burn_alert("EchogenErrorBudgetBurnsFast", "page", PAGE, "<paging_lanes>", "2m")
    slow = burn_alert("EchogenErrorBudgetBurnsSlowly", "ticket", TICKET, "<all_lanes>", "15m")
    spent = [each for lane in lanes for each in error_ratios(lane, BUDGET_WINDOW)]
    left = (
        f"1 - lane_slo:echogen_errors:ratio_rate{BUDGET_WINDOW}{{<selector>}} "
        "/ lane_slo:echogen_error_budget:ratio{<selector>}"
    )
    return {
        "groups": [
            {
                "name": "echogen-objectives",
                "rules": [*ratios, *(each for lane in lanes for each in budgets(lane)), rule("lane:echogen_jobs:increase1h", jobs)],
            },
            # A month of samples is read less often.
            {
                "name": "echogen-error-budget",
                "interval": "5m",
                "rules": [*spent, rule("lane_slo:echogen_error_budget_left:ratio", left)],
            },
            {"name": "echogen-objective-alerts", "rules": [fast, slow]},
        ]
    }


def sources():
    """The rules with what is to be filled in, by file."""
    made = {path.name: path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.yaml"))}
    lanes = yaml.safe_load(VALUES.read_text(encoding="utf-8"))["objectives"]
    text = yaml.dump(objectives(lanes), Dumper=Indented, sort_keys=False, width=10_000)
    head = "# Service level objectives, made by deploy/mixin.py from prometheus/mixin/values.yaml: change those.\n"
    head += "# yamllint disable rule:line-length\n"
    return made | {"objectives.yaml": head + text}


def fillings(values):
    """What stands for each name in angle brackets."""
    labels = [label for label in (values["labels"]["namespace"], values["labels"]["release"]) if label]
    lanes = sorted(values["objectives"])
    made = {
        # Without such labels, the list begins with what comes after them.
        "<installation>, ": "".join(f"{label}, " for label in labels),
        "<installation>": ", ".join(labels),
        "<process>": ", ".join(values["process"]),
        "<selector>": values["selector"],
        "<all_lanes>": "|".join(lanes),
        "<paging_lanes>": "|".join(lane for lane in lanes if values["objectives"][lane]["page"]) or "none",
    }
    made |= {f"<{name}>": str(value) for name, value in values["thresholds"].items()}
    for lane in lanes:
        promised = values["objectives"][lane]
        made |= {f"<{name}_{lane}>": str(promised[name]) for name in ("availability", "latency", "latency_seconds")}
    return made


def filled_in(text, values):
    for name, value in fillings(values).items():
        text = text.replace(name, value)
    if values["runbook_url"]:
        text = text.replace(RUNBOOK, f"runbook_url: {values['runbook_url']}")
    return text.replace("{}", "")


def rules(values):
    """The rules' files: name to text."""
    return {name: filled_in(text, values) for name, text in sources().items()}


def bounds():
    """The bounds of `echogen_job_seconds`, which a latency has to be one of."""
    text = (FOLDER.parents[1] / "crates/telemetry/src/metrics.rs").read_text(encoding="utf-8")
    listed = re.search(r"const JOB_SECONDS: &\[f64\] = &\[(.*?)\];", text, re.DOTALL)[1]
    numbers = [float(each.replace("_", "")) for each in re.findall(r"[\d._]+", listed)]
    return [int(each) if each.is_integer() else each for each in numbers]


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=Path, default=VALUES, help="by default %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in rules(read(arguments.values)).items():
        (arguments.out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
