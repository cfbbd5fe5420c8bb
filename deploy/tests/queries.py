"""Queries in PromQL, compared with the closed list of metrics, and with the lists of what servers and devices export."""

import re
from functools import cache

import promql_parser as promql
from common import DEPLOY, load, metrics_list
from exporters import exported

# Labels that Prometheus adds to each series when it scrapes a process.
TARGET_LABELS = {"instance", "job", "namespace", "release", "pod", "node", "pool"}
# Labels by which one installation differs from another.
INSTALLATION = {"namespace", "release"}
# Values for Grafana's own variables and ours.
VARIABLES = {
    "$__rate_interval": "5m",
    "$namespace": "pictures",
    "$release": "echogen",
    "$stage": "sampler",
    "$sampler_price": "2.50",
    "$other_price": "0.10",
}


def filled_in(expression):
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, f"unknown variable in {expression}"
    return expression


@cache
def all_rules():
    """Every rule of every file."""
    files = sorted((DEPLOY / "prometheus/rules").glob("*.yaml"))
    return [rule for path in files for group in load(path)["groups"] for rule in group["rules"]]


@cache
def recorded():
    """The recording rules: name to expression; of those with one name, the first."""
    found = {}
    for rule in all_rules():
        if "record" in rule:
            found.setdefault(rule["record"], rule["expr"])
    return found


@cache
def written_labels(name):
    """The labels that the rules of this name write themselves."""
    return set().union(*(rule.get("labels", {}) for rule in all_rules() if rule.get("record") == name))


def nodes(tree):
    """A query's expressions, from the outermost to the innermost."""
    yield tree
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(tree, name, None)
        if isinstance(child, promql.Expr):
            yield from nodes(child)
    for child in getattr(tree, "args", None) or []:
        yield from nodes(child)


def labels_of(series):
    """Labels that a series may have, and what is known of their values."""
    if series == "up":
        return TARGET_LABELS, {}
    if series in exported():
        return set(exported()[series][1]) | TARGET_LABELS, {}
    if series in recorded():
        tree = promql.parse(recorded()[series])
        found, values = set(), {}
        for node in nodes(tree):
            if isinstance(node, promql.VectorSelector):
                labels, known = labels_of(node.name)
                values |= known
                found |= labels
        kept = set(series.split(":")[0].split("_")) | INSTALLATION
        return found & kept | written_labels(series), values
    metric, extra = metrics_list().metric(series)
    known = {label: values for (name, label), values in metrics_list().values.items() if name == metric}
    return metrics_list().labels[metric] | extra | TARGET_LABELS, known


def check(expression):
    """Fails if a query names a series, a label or a value that no process has."""
    tree = promql.parse(filled_in(expression))
    everywhere = set()
    for node in nodes(tree):
        if isinstance(node, promql.VectorSelector):
            labels, values = labels_of(node.name)
            everywhere |= labels
            for matcher in node.matchers.matchers:
                assert matcher.name in labels, f"{node.name} has no label {matcher.name}: {expression}"
                check_value(node.name, matcher, values.get(matcher.name))
    assert everywhere or "vector(" in expression, f"no series in {expression}"
    for node in nodes(tree):
        wanted = getattr(getattr(node, "modifier", None), "labels", None)
        if isinstance(node, promql.AggregateExpr) and wanted:
            unknown = set(wanted) - everywhere
            assert not unknown, f"nothing has the labels {unknown}: {expression}"


def check_value(series, matcher, known):
    """A matcher has to match a value, and each word of an alternative has to be one."""
    if known is None:
        return
    if re.fullmatch(r"[a-z_|]+", matcher.value):
        unknown = set(matcher.value.split("|")) - known
        assert not unknown, f"{series}: {matcher.name} is never {unknown}, only {known}"
    else:
        assert any(re.fullmatch(matcher.value, value) for value in known), f"{series}: nothing matches {matcher.value}"


def charted_labels(expression):
    """The labels of a query's result."""
    tree = promql.parse(filled_in(expression))
    while isinstance(tree, (promql.BinaryExpr, promql.ParenExpr)):
        tree = tree.lhs if isinstance(tree, promql.BinaryExpr) else tree.expr
    if isinstance(tree, promql.Call):
        inner = [argument for argument in tree.args if not isinstance(argument, promql.NumberLiteral)]
        return charted_labels(inner[0].prettify()) if inner else set()
    if isinstance(tree, promql.AggregateExpr):
        return set(getattr(tree.modifier, "labels", None) or [])
    if isinstance(tree, promql.MatrixSelector):
        tree = tree.vector_selector
    return labels_of(tree.name)[0] if isinstance(tree, promql.VectorSelector) else set()


def stages_of(expression, stages):
    """The metrics with a label `stage` that a query reads, each with the stages that it covers."""
    found = {}
    for node in nodes(promql.parse(filled_in(expression))):
        if isinstance(node, promql.VectorSelector) and node.name != "up" and "stage" in labels_of(node.name)[0]:
            matchers = [matcher for matcher in node.matchers.matchers if matcher.name == "stage"]
            covered = {stage for stage in stages if all(matches(matcher, stage) for matcher in matchers)}
            found.setdefault(node.name, set()).update(covered)
    return found


def matches(matcher, value):
    is_match = re.fullmatch(matcher.value, value) if "Re" in str(matcher.op) else matcher.value == value
    return bool(is_match) != ("Not" in str(matcher.op))
