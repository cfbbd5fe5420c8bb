"""Rules and routes at a multiple of their speed, so that a test sees in minutes what takes hours.

Every duration is divided by the same number: how long a condition has to hold, the window that a rate is taken over, how long
Alertmanager waits. Names are left alone, and so are thresholds, which are about jobs and not about Prometheus.
"""

import copy
import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(\d+)([smhd])")
# A window in brackets, or an offset: no other durations are in our expressions.
IN_EXPRESSION = re.compile(r"(?<=\[)\d+[smhd](?=\])|(?<=offset )\d+[smhd]\b")
WAITS = ("group_wait", "group_interval", "repeat_interval")


def hurried(duration, factor):
    """`15m`, 30 times as fast, is `30s`; never less than a second."""
    number, unit = DURATION.fullmatch(duration).groups()
    return f"{max(1, round(int(number) * UNITS[unit] / factor))}s"


def rules(file, factor):
    """The groups of a file of rules."""
    made = copy.deepcopy(file)
    for group in made["groups"]:
        if "interval" in group:
            group["interval"] = hurried(group["interval"], factor)
        for rule in group["rules"]:
            rule["expr"] = IN_EXPRESSION.sub(lambda found: hurried(found[0], factor), rule["expr"])
            if "for" in rule:
                rule["for"] = hurried(rule["for"], factor)
    return made


def routes(file, factor):
    """Alertmanager's configuration."""
    made = copy.deepcopy(file)

    def walk(route):
        for name in WAITS:
            if name in route:
                route[name] = hurried(route[name], factor)
        for each in route.get("routes", []):
            walk(each)

    walk(made["route"])
    return made
