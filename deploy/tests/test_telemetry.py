"""Traces and logs in compose: collector, Tempo, Loki, what Docker sends them, and what Grafana knows of them.

Their own programs are in no package that the checks could take, so files are compared with each other and with compose.yaml.
"""

import json
import re
import tomllib
from urllib.parse import urlsplit

import pytest
from common import DEPLOY, ROLES, ROOT, load

SERVICES = load(DEPLOY / "compose.yaml")["services"]
COLLECTOR, TEMPO, LOKI = (load(DEPLOY / f"{name}.yaml") for name in ("collector", "tempo", "loki"))
SOURCES = {
    source["uid"]: source
    for path in sorted((DEPLOY / "grafana/provisioning/datasources").glob("*.yaml"))
    for source in load(path)["datasources"]
}
# What listens where, inside the network of compose.
LISTENS = {
    ("tempo", TEMPO["server"]["http_listen_port"]),
    ("tempo", int(TEMPO["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"].split(":")[1])),
    ("loki", LOKI["server"]["http_listen_port"]),
    ("collector", int(COLLECTOR["receivers"]["otlp"]["protocols"]["http"]["endpoint"].split(":")[1])),
    ("prometheus", 9090),
}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def reached(url):
    parts = urlsplit(url)
    return parts.hostname, parts.port


@pytest.mark.parametrize("name", ["collector", "tempo", "loki", "redis-exporter"])
def test_what_watches_has_no_rights(name):
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]) and service["mem_limit"]
    assert "privileged" not in service and "docker.sock" not in str(service) and "/var/lib/docker" not in str(service)


@pytest.mark.parametrize("name", ["collector", "tempo", "loki"])
def test_each_reads_the_file_that_is_mounted(name):
    option = "--config=" if name == "collector" else "-config.file="
    (path,) = [each.removeprefix(option) for each in SERVICES[name]["command"] if each.startswith(option)]
    assert f"./{name}.yaml:{path}:ro" in SERVICES[name]["volumes"]


@pytest.mark.parametrize(("name", "config"), [("tempo", TEMPO), ("loki", LOKI)])
def test_each_writes_to_its_volume_only(name, config):
    (volume,) = [each.split(":")[1] for each in SERVICES[name]["volumes"] if not each.startswith(".")]
    written = re.findall(r'"(/[^"]+)"', json.dumps(config))
    assert written and all(path == volume or path.startswith(f"{volume}/") for path in written)


@pytest.mark.parametrize("name", ["tempo", "loki"])
def test_each_is_asked_where_it_listens(name):
    (option,) = [each for each in SERVICES[name]["healthcheck"]["test"] if each.startswith("-health.url=")]
    host, port = reached(option.removeprefix("-health.url="))
    assert host == "127.0.0.1" and (name, port) in LISTENS


def test_the_collector_uses_what_it_defines_and_defines_what_it_uses():
    pipelines = COLLECTOR["service"]["pipelines"]
    for kind in ("receivers", "processors", "exporters"):
        assert {each for pipeline in pipelines.values() for each in pipeline[kind]} == set(COLLECTOR[kind])
    for pipeline in pipelines.values():
        assert pipeline["processors"][0] == "memory_limiter" and pipeline["processors"][-1] == "batch"
    limiter = COLLECTOR["processors"]["memory_limiter"]
    assert limiter["limit_mib"] + limiter["spike_limit_mib"] < int(SERVICES["collector"]["mem_limit"].removesuffix("m"))


def test_what_is_sent_arrives_somewhere():
    sent = [exporter["endpoint"] for exporter in COLLECTOR["exporters"].values()]
    sent += [source["url"] for source in SOURCES.values()]
    sent.append(tomllib.loads((DEPLOY / "echogen.toml").read_text(encoding="utf-8"))["telemetry"]["otlp_endpoint"])
    for url in sent:
        assert reached(url) in LISTENS, f"nothing listens at {url}"


def test_docker_sends_lines_of_the_roles_to_the_collector():
    port = COLLECTOR["receivers"]["fluent_forward"]["endpoint"].split(":")[1]
    ours = {name for name, service in SERVICES.items() if "logging" in service}
    assert ours == {*ROLES, "canary", "gateway"}
    for name in ours:
        assert SERVICES[name]["logging"]["driver"] == "fluentd"
        options = SERVICES[name]["logging"]["options"]
        assert f"{options['fluentd-address']}:{port}" in SERVICES["collector"]["ports"]
        # Otherwise no role starts while the collector is away.
        assert options["fluentd-async"] == "true"
        # By this label the collector names the line's role.
        assert f'log.attributes["{options["labels"]}"]' in str(COLLECTOR["processors"]["transform/service"])


def test_traces_and_lines_are_kept_equally_long():
    scheduled = TEMPO["backend_scheduler"]["provider"]["compaction"]["compaction"]["block_retention"]
    kept = {scheduled, TEMPO["backend_worker"]["compaction"]["block_retention"], LOKI["limits_config"]["retention_period"]}
    assert kept == {"168h"} and LOKI["compactor"]["retention_enabled"]


def test_nothing_is_reported_to_the_makers():
    assert TEMPO["usage_report"]["reporting_enabled"] is False and LOKI["analytics"]["reporting_enabled"] is False


@pytest.mark.parametrize("line", [
    f'{{"level":"INFO","fields":{{"message":"done"}},"span":{{"job":"j","trace_id":"{TRACE}","name":"task"}}}}',
    f"2026-01-01T00:00:00Z INFO task{{job=j trace_id={TRACE}}}: done",
])
def test_a_line_leads_to_its_trace(line):
    (field,) = SOURCES["loki"]["jsonData"]["derivedFields"]
    assert re.search(field["matcherRegex"], line)[1] == TRACE
    assert SOURCES[field["datasourceUid"]]["type"] == "tempo" and field["url"] == "$${__value.raw}"


def test_a_trace_leads_to_its_lines():
    way = SOURCES["tempo"]["jsonData"]["tracesToLogsV2"]
    assert SOURCES[way["datasourceUid"]]["type"] == "loki"
    label, pattern, wanted = re.fullmatch(r'\{(\w+)=~"([^"]+)"\} \|= "([^"]+)"', way["query"]).groups()
    # Loki makes a label of the resource's attribute service.name, which the collector sets.
    (statement,) = COLLECTOR["processors"]["transform/service"]["log_statements"]
    assert label == "service_name" and 'set(log.attributes["service.name"]' in statement
    assert COLLECTOR["processors"]["groupbyattrs/service"]["keys"] == ["service.name"]
    assert COLLECTOR["service"]["pipelines"]["logs"]["processors"][1:3] == ["transform/service", "groupbyattrs/service"]
    prefix, separator = re.search(r'Concat\(\["(\w+)", .*\], "(.)"\)', statement).groups()
    assert all(re.fullmatch(pattern, f"{prefix}{separator}{role}") for role in ROLES)
    assert wanted == "$${__trace.traceId}"


def test_every_source_that_a_board_names_is_provisioned():
    kinds = {source["type"] for source in SOURCES.values()}
    for path in (DEPLOY / "grafana/dashboards").glob("*.json"):
        board = json.loads(path.read_text(encoding="utf-8"))
        chosen = {each["name"]: each["query"] for each in board["templating"]["list"] if each["type"] == "datasource"}
        assert set(chosen.values()) <= kinds
        named = set(re.findall(r'"uid": "([^"]+)"', json.dumps([board["panels"], board["templating"]])))
        known = {*SOURCES, *("${" + name + "}" for name in chosen)}
        assert named and named <= known, f"{path.name}: there is no source {named - known}"


def test_the_page_says_what_to_give_an_own_grafana():
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    (field,) = SOURCES["loki"]["jsonData"]["derivedFields"]
    assert "grafana/provisioning/datasources/telemetry.yaml" in page and f"`{field['matcherRegex']}`" in page
