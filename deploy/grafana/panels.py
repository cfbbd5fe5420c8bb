"""The parts of dashboards: queries, panels, variables, and the layout."""

import re
from functools import partial

# Labels by which one installation differs from another; `dashboards.written` fills in their names.
INSTALLATION = "<namespace>, <release>"
HERE = '<namespace>=~"$namespace",<release>=~"$release"'
# Servers and devices may belong to no release; on Kubernetes most have a namespace only.
THERE = '<namespace>=~"$namespace",<release>=~"$release|"'
OURS = r"(?:[a-z_]+:)?echogen_[a-z0-9_]+(?::[a-z0-9_]+)?"
OTHERS = r"\b(?:rabbitmq_[a-z0-9_]+|redis_[a-z0-9_]+|DCGM_FI_[A-Z0-9_]+)"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH = 24


def target(expression, legend="", instant=False, heat=False):
    """A query; `legend` is the template of its series' names."""
    made = {"datasource": SOURCE, "editorMode": "code", "expr": of_installation(expression), "legendFormat": legend, "range": not instant}
    if instant:
        made["instant"] = True
    if heat:
        made["format"] = "heatmap"
    return made


def of_installation(expression):
    """The query with the chosen installation in each of its selectors."""
    for series, chosen in ((OURS, HERE), (OTHERS, THERE)):
        expression = re.sub(rf"({series})(?:\{{([^{{}}]*)\}})?", partial(selected, chosen), expression)
    return expression


def selected(chosen, found):
    return f"{found[1]}{{{','.join(filter(None, [chosen, found[2]]))}}}"


def panel(kind, title, targets, unit="short", width=12, height=8, help_text="", **options):
    """A panel; `place` sets its position."""
    custom = {}
    if kind == "timeseries":
        custom = {"fillOpacity": 10, "showPoints": "never", "lineWidth": 1}
        if options.pop("stacked", False):
            custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
    defaults = {"unit": unit, "custom": custom}
    for name in ("min", "max", "thresholds", "mappings", "decimals"):
        if name in options:
            defaults[name] = options.pop(name)
    made = {
        "type": kind,
        "title": title,
        "description": help_text,
        "datasource": SOURCE,
        "targets": [dict(each, refId=chr(ord("A") + place)) for place, each in enumerate(targets)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "gridPos": {"w": width, "h": height},
        "options": options.pop("options", {}),
    }
    if kind == "timeseries":
        made["options"] |= {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return made | options


def lines(title, *targets, **rest):
    return panel("timeseries", title, targets, **rest)


def number(title, expression, **rest):
    rest = {"width": 4, "height": 4, "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}} | rest
    return panel("stat", title, [target(expression)], **rest)


def heat(title, metric, matchers="", **rest):
    """A histogram over time."""
    expression = f"sum by (le) (increase({metric}_bucket{matchers}[$__rate_interval]))"
    options = {"calculate": False, "yAxis": {"unit": rest.get("unit", "s")}, "color": {"scheme": "Oranges", "mode": "scheme"}}
    return panel("heatmap", title, [target(expression, "{{le}}", heat=True)], options=options, **rest)


def quantiles(metric, by, matchers="", legend="", shares=(0.5, 0.95, 0.99)):
    """Quantiles of a distribution, grouped by `by`."""
    grouping = ", ".join([*by, "le"])
    prefix = f"{legend} " if legend else ""
    return [
        target(
            f"histogram_quantile({share}, sum by ({grouping}) (rate({metric}_bucket{matchers}[$__rate_interval])))",
            f"{prefix}p{share * 100:g}",
        )
        for share in shares
    ]


def red_above(*steps):
    """Green below the first value, then yellow and red."""
    colours = ["yellow", "red"] if len(steps) == 2 else ["red"]
    first = [{"color": "green", "value": None}]
    return {"mode": "absolute", "steps": first + [{"color": c, "value": v} for c, v in zip(colours, steps, strict=False)]}


def red_below(step):
    return {"mode": "absolute", "steps": [{"color": "red", "value": None}, {"color": "green", "value": step}]}


def place(panels):
    """Lays the panels out from left to right, and numbers them."""
    left = top = row_height = 0
    for count, each in enumerate(panels, 1):
        size = each["gridPos"]
        if left + size["w"] > WIDTH:
            left, top, row_height = 0, top + row_height, 0
        each["id"] = count
        each["gridPos"] = {"x": left, "y": top, **size}
        left, row_height = left + size["w"], max(row_height, size["h"])
    return panels


def source_variable():
    return {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}


def installation_variables(known_by):
    """Which installation is shown: the first by default. Empty, if the series have no such labels, which matches these."""
    asked = {
        "namespace": f"label_values({known_by}, <namespace>)",
        "release": f'label_values({known_by}{{<namespace>=~"$namespace"}}, <release>)',
    }
    return [
        {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": False,
            "current": {},
        }
        for name, query in asked.items()
    ]


def choice(name, label, values):
    """A variable with fixed values."""
    options = [{"text": value, "value": value, "selected": place == 0} for place, value in enumerate(values)]
    return {
        "name": name,
        "label": label,
        "type": "custom",
        "query": ",".join(values),
        "options": options,
        "current": options[0],
    }


def typed(name, label, value):
    """A variable with a text box."""
    current = {"text": value, "value": value}
    return {"name": name, "label": label, "type": "textbox", "query": value, "current": current, "options": [current]}


def dashboard(name, title, description, panels, variables=(), known_by="echogen_build_info"):
    """A dashboard; `known_by` is the metric whose labels say which installations there are."""
    others = {"type": "dashboards", "title": "EchoGen", "tags": ["echogen"], "asDropdown": True, "keepTime": True}
    return {
        "uid": f"echogen-{name}",
        "title": f"EchoGen / {title}",
        "description": description,
        "tags": ["echogen"],
        "timezone": "browser",
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 41,
        "time": {"from": "now-3h", "to": "now"},
        "links": [others],
        "templating": {"list": [source_variable(), *installation_variables(known_by), *variables]},
        "annotations": {"list": []},
        "panels": place(panels),
        "version": 1,
    }
