"""`helm upgrade`, simulated: whatever value changes, no object keeps its name and changes what Kubernetes never changes."""

import copy
import shutil

import generate
import pytest
import yaml
from common import CHART, load
from helm_python.chart import Chart

# What an update may not touch, by kind. Of a claim's size only less is refused.
FIXED = {
    "Job": [("spec", "template"), ("spec", "selector"), ("spec", "completions"), ("spec", "completionMode")],
    "Deployment": [("spec", "selector")],
    "PersistentVolumeClaim": [("spec", "accessModes"), ("spec", "storageClassName"), ("spec", "volumeName")],
    "Service": [("spec", "clusterIP")],
    "Secret": [("type",)],
}
# Another value for each, by the end of its path, where adding one or a letter makes no sense.
LABELS = {"example.org/a": "b"}
OTHER = {
    "fullnameOverride": "others",
    "repository": "registry.example.org/other",
    "digest": "sha256:" + "3" * 64,
    "cudaDigest": "sha256:" + "4" * 64,
    "pullPolicy": "Always",
    "pullSecrets": ["other"],
    "secret.values": {"ECHOGEN_CACHE_URL": "redis://redis"},
    "secret.from": {"ECHOGEN_CACHE_URL": {"name": "redis", "key": "url"}},
    "authorities.servers": ["broker"],
    "bundle": "echogen-2b-ft",
    "url": "s3://other",
    "log_format": "plain",
    "manifest": 'name = "echogen-2b"\n',
    "volume.type": "emptyDir",
    "volume.size": "61Gi",
    "volume.hostPath": "/models",
    "accessMode": "ReadWriteOncePod",
    "cpu": "3",
    "memory": "9Gi",
    "gpu.resource": "amd.com/gpu",
    "maxUnavailable": 2,
    "strategy": {"type": "Recreate"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 3, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}],
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["rabbitmq"]}],
    "config": {"worker": {"max_attempts": 7}},
    "env": {"RUST_BACKTRACE": "short"},
    "extraEnv": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}],
    "extraVolumes": [{"name": "a", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "tmp", "mountPath": "/a"}],
    "sidecars": [{"name": "a", "image": "a:1"}],
    "initContainers": [{"name": "a", "image": "a:1"}],
    "pools": [{"name": "a"}, {"name": "b", "lanes": ["bulk"]}],
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}],
    "prometheus.address": "http://other:9090",
    "gateway.enabled": False,
    "gateway.config": {"gateway": {"console": False}},
    "tenants.secret": "others",
    "service.type": "LoadBalancer",
    "hosts": ["other.example.org"],
    "hostnames": ["other.example.org"],
    "tls": [],
    "parentRefs": [{"name": "other"}],
    "gatewayFrom": [{"podSelector": {}}],
    "adminFrom": [{"podSelector": {"matchLabels": {"app": "a"}}}],
    "thresholds": {"backlog_seconds": 1},
    "objectives": {"bulk": {"page": True}},
    "runbookUrl": "https://example.org",
    "metricsFrom": [{"podSelector": {}}],
    "serversTo": [{"podSelector": {}}],
    "privateNetworks": ["10.0.0.0/8"],
    "networks": ["192.0.2.0/24"],
    "dnsNetworks": ["192.0.2.0/24"],
    "extraEgress": [{"ports": [{"port": 1}]}],
    "podSecurityContext": {"runAsUser": 1000},
    "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    "seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"},
    "fsGroupChangePolicy": "Always",
}
# A Secret that the chart makes needs values, and a claim that is only read one that exists; this installation has neither.
REFUSED = {"secret.create", "models.volume.readOnly"}


def leaves(table, path=()):
    for name, value in table.items():
        if isinstance(value, dict) and value and ending((*path, name)) is None:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def ending(path):
    """The other value of a path, by its last two names or its last one."""
    return OTHER.get(".".join(path[-2:]), OTHER.get(path[-1]))


def changed(path, value):
    other = ending(path)
    if other is not None and other != value:
        return other
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list):
        return [*value, 8080] if all(isinstance(each, int) for each in value) else value[:1]
    return LABELS


def put(table, path, value):
    made = copy.deepcopy(table)
    into = made
    for name in path[:-1]:
        into = into.setdefault(name, {})
    into[path[-1]] = value
    return made


def objects(chart, values):
    texts = chart.render(values, name="echogen", namespace="pictures")
    found = [each for name, text in texts.items() if name.endswith(".yaml") for each in yaml.load_all(text, yaml.CSafeLoader)]
    return {(each["kind"], each["metadata"]["name"]): each for each in found if each}


def at(table, path):
    for name in path:
        table = (table or {}).get(name)
    return table


def conflicts(before, after):
    return [
        f"{kind} {name}: {'.'.join(path)}"
        for (kind, name), each in before.items()
        for path in FIXED.get(kind, [])
        if (kind, name) in after and at(each, path) != at(after[kind, name], path)
    ]


def test_no_change_of_a_value_changes_what_is_fixed():
    base = load(generate.CASES["full"])
    defaults = load(CHART / "values.yaml")
    tried, broken, refused = 0, {}, []
    with Chart.load(CHART) as chart:
        before = objects(chart, base)
        for path, default in leaves(defaults):
            value = at(base, path) if at(base, path) is not None else default
            try:
                after = objects(chart, put(base, path, changed(path, value)))
            except Exception:  # the chart's schema, or what a template refuses
                refused.append(".".join(path))
                continue
            tried += 1
            if found := conflicts(before, after):
                broken[".".join(path)] = found
    assert not broken
    assert set(refused) == REFUSED, "the test has no other value for these, or they cannot be changed"
    assert tried > 220


def test_the_simulation_sees_a_job_that_keeps_its_name():
    job = {"kind": "Job", "metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [1]}}}}
    other = copy.deepcopy(job)
    other["spec"]["template"]["spec"]["containers"] = [2]
    assert conflicts({("Job", "a"): job}, {("Job", "a"): other}) == ["Job a: spec.template"]
    assert conflicts({("Job", "a"): job}, {("Job", "b"): other}) == []


@pytest.fixture
def newer(tmp_path):
    """The same chart as of a later version, with the same images."""
    shutil.copytree(CHART, tmp_path / "echogen")
    file = tmp_path / "echogen/Chart.yaml"
    about = load(file) | {"version": "9.9.9", "appVersion": "9.9.9"}
    file.write_text(yaml.safe_dump(about), encoding="utf-8")
    return tmp_path / "echogen"


def test_another_version_of_the_chart_with_the_same_images_restarts_no_pod(newer):
    values = load(generate.CASES["full"])
    with Chart.load(CHART) as chart:
        before = objects(chart, values)
    with Chart.load(newer) as chart:
        after = objects(chart, values)
    assert set(before) == set(after), "the weights are not fetched anew"
    for key, each in before.items():
        if key[0] in ("Deployment", "Job"):
            assert each["spec"]["template"] == after[key]["spec"]["template"], key
            assert each["metadata"]["labels"] != after[key]["metadata"]["labels"]
    assert not conflicts(before, after)
