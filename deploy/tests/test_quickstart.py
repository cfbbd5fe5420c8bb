"""The quickstart for Kubernetes: its manifests are valid, its values render, and everything that is named is made."""

import re

import pytest
import yaml
from common import CHART, DEPLOY, ROOT, check_object, load
from helm_python.chart import Chart
from test_chart import KUBERNETES

FOLDER = DEPLOY / "quickstart"
PAGE = (DEPLOY / "quickstart.md").read_text(encoding="utf-8")
VALUES = load(FOLDER / "echogen-values.yaml")
# What RabbitMQ's operator makes for a cluster of this name: https://www.rabbitmq.com/kubernetes/operator/using-operator#find
OPERATOR = {"rabbitmq-default-user": {"username", "password", "host", "port", "connection_string", "default_user.conf"}}


def servers():
    return [each for each in yaml.safe_load_all((FOLDER / "servers.yaml").read_text(encoding="utf-8")) if each]


def rendered():
    with Chart.load(CHART) as chart:
        texts = chart.render(VALUES, name="echogen", namespace="pictures")
    found = [each for name, text in texts.items() if name.endswith(".yaml") for each in yaml.load_all(text, yaml.CSafeLoader)]
    return [each for each in found if each]


def secrets():
    """Every Secret that the page makes, with its keys, and those of the operator."""
    made = dict(OPERATOR)
    for name, rest in re.findall(r"create secret generic ([\w-]+)((?:.|\\\n)*?)\n(?!    )", PAGE):
        made[name] = set(re.findall(r"--from-literal ([\w-]+)=", rest)) | set(re.findall(r"--from-file ([\w.]+)", rest))
    return made


def pods():
    for each in servers():
        if each["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield each, each["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_would_take_it(version):
    for each in servers() + rendered():
        check_object(each, version)


def test_every_secret_that_is_read_is_made():
    read = {(each["name"], each["key"]) for each in VALUES["secret"]["from"].values()}
    read.add((VALUES["gateway"]["tenants"]["secret"], "tenants.toml"))
    for _, spec in pods():
        for container in spec["containers"]:
            from_secrets = [each["valueFrom"]["secretKeyRef"] for each in container.get("env", []) if "valueFrom" in each]
            read |= {(each["name"], each["key"]) for each in from_secrets}
    made = secrets()
    for name, key in read:
        assert key in made.get(name, ()), f"{name} has no {key}"
    monitoring = load(FOLDER / "monitoring-values.yaml")["alertmanager"]["alertmanagerSpec"]
    assert monitoring["useExistingSecret"] and made[monitoring["configSecret"]] == {"alertmanager.yaml"}


def test_every_address_is_that_of_a_service():
    found = [each for each in servers() if each["kind"] == "Service"]
    services = {each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]} for each in found}
    addresses = [VALUES["env"]["ECHOGEN_CACHE_URL"], VALUES["config"]["store"]["endpoint"]]
    for address in addresses:
        host, port = re.search(r"//([\w-]+):(\d+)", address).groups()
        assert int(port) in services[host], address
        assert int(port) in load(CHART / "values.yaml")["networkPolicy"]["serverPorts"], "the network policy forbids it"
    for each, spec in pods():
        ports = {port["containerPort"] for container in spec["containers"] for port in container.get("ports", [])}
        assert each["kind"] == "Job" or ports == services[each["metadata"]["name"]]


def test_the_servers_run_unprivileged_from_pinned_images():
    seen = []
    for _, spec in pods():
        assert spec["securityContext"]["runAsNonRoot"] and spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            seen.append(container["image"])
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] and own["capabilities"] == {"drop": ["ALL"]}
            assert own["allowPrivilegeEscalation"] is False
            assert "memory" in container["resources"]["limits"]
    for image in seen:
        assert re.search(r":v?\d+\.\d+(\.\d+)?$", image), image
    # The same store, broker and exporter as those of compose.yaml.
    compose = {service["image"] for service in load(DEPLOY / "compose.yaml")["services"].values()}
    (rabbitmq,) = [each["spec"]["image"] for each in servers() if each["kind"] == "RabbitmqCluster"]
    assert {rabbitmq, *(image for image in seen if re.search("seaweedfs|exporter", image))} <= compose


def test_monitoring_finds_what_the_chart_makes():
    monitoring = load(FOLDER / "monitoring-values.yaml")
    selects = monitoring["prometheus"]["prometheusSpec"]
    chosen = ("serviceMonitor", "podMonitor", "rule")
    assert not any(selects[f"{kind}SelectorNilUsesHelmValues"] for kind in chosen)
    sidecar = monitoring["grafana"]["sidecar"]["dashboards"]
    (dashboards,) = [each for each in rendered() if each["metadata"]["labels"].get("grafana_dashboard")]
    assert dashboards["metadata"]["labels"][sidecar["label"]] == sidecar["labelValue"]
    (peer,) = VALUES["networkPolicy"]["metricsFrom"]
    assert f"create namespace {peer['namespaceSelector']['matchLabels']['kubernetes.io/metadata.name']}" in PAGE
    kinds = {each["kind"] for each in rendered()}
    assert {"ServiceMonitor", "PrometheusRule", "ScaledObject"} <= kinds


def test_the_boards_of_servers_have_metrics():
    monitors = {each["metadata"]["name"]: each["spec"] for each in servers() if each["kind"] == "PodMonitor"}
    assert set(monitors) == {"rabbitmq", "valkey"}
    (pod,) = [each["spec"]["template"] for each, _ in pods() if each["metadata"]["name"] == "valkey"]
    assert monitors["valkey"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitors["valkey"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
    # The operator's own labels and ports, which have no manifest here.
    assert monitors["rabbitmq"]["podMetricsEndpoints"][0]["port"] == "prometheus"
    (cluster,) = [each for each in servers() if each["kind"] == "RabbitmqCluster"]
    assert "rabbitmq_prometheus" in cluster["spec"]["rabbitmq"]["additionalPlugins"]


def test_the_page_names_what_there_is():
    made = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in servers() + rendered()}
    for kind, name in re.findall(r"\b(rabbitmqcluster|job|service)/([\w-]+)", PAGE):
        assert f"{kind}/{name}" in made or name == "monitoring-grafana", f"{kind}/{name}"
    for path in re.findall(r"(?:^|[ =@])((?:deploy|helm|examples)/[\w./-]+)", PAGE, re.MULTILINE):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"\]\(([^)#\s]+)", PAGE):
        assert (DEPLOY / target).exists(), target
