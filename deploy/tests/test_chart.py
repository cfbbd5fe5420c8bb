"""The chart: it lints, renders, rejects wrong values, and its objects fit one another and the program."""

import json
import re
import tomllib
from functools import cache

import generate
import jsonschema
import kubernetes_validate
import mixin
import pytest
import yaml
from common import CHART, DEPLOY, PORT, ROLES, check_object, load, program_commands, program_variables, settings_schema
from helm_python.chart import Chart, lint
import promql_parser as promql
from queries import check, nodes

CASES = sorted(generate.CASES)
# Every minor version from the oldest that the chart allows to the newest whose schemas there are.
KUBERNETES = [f"1.{minor}" for minor in range(28, 38)]


def values(case):
    path = generate.CASES[case]
    return load(path) if path else {}


@cache
def objects(case):
    """What a case renders to, in order of the templates."""
    found = []
    for template, text in sorted(generate.rendered(case).items()):
        if template.endswith(".yaml"):
            found += [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]
    return found


def of_kind(case, *kinds):
    return [each for each in objects(case) if each["kind"] in kinds]


def pods(case):
    """Every pod template, or pod, with its owner."""
    for owner in of_kind(case, "Deployment", "Job"):
        yield owner, owner["spec"]["template"]["metadata"], owner["spec"]["template"]["spec"]
    for pod in of_kind(case, "Pod"):
        yield pod, pod["metadata"], pod["spec"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def ours(spec):
    """The containers that run the program; others are the installer's, or a line of shell."""
    return [each for each in containers(spec) if "echogen" in each["image"] and "command" not in each]


def pod_of(case, component, pool=None):
    wanted = {"app.kubernetes.io/component": component} | ({"echogen/pool": pool} if pool else {})
    found = [spec for owner, meta, spec in pods(case) if wanted.items() <= meta["labels"].items()]
    assert len(found) == 1
    return found[0]


def roles_of(case):
    """Each role that runs, or pool of one, with what the values say of it and its pod."""
    defaults = load(CHART / "values.yaml")["roles"]
    for role in ROLES:
        own = overwritten(defaults[role], values(case).get("roles", {}).get(role, {}))
        for pool in own["pools"] if own.get("pools") else [{}]:
            if own["enabled"]:
                yield role, overwritten(own, pool), pod_of(case, role, pool.get("name"))


def variables(container):
    return {each["name"]: each.get("value") for each in container.get("env", [])}


@pytest.mark.parametrize("case", CASES)
def test_it_lints(case):
    report = lint(CHART, values(case), strict=True, namespace="pictures")
    grave = [message for message in report["messages"] if message["severity"] >= 2]
    assert not grave and not report["errors"]


def test_every_kind_is_there_when_everything_is_on():
    kinds = {each["kind"] for each in objects("full")}
    wanted = {"Deployment", "ConfigMap", "ServiceAccount", "Service", "ServiceMonitor", "PrometheusRule", "ScaledObject"}
    wanted |= {"PodDisruptionBudget", "NetworkPolicy", "PersistentVolumeClaim", "Job", "Pod"}
    wanted |= {"Ingress", "HTTPRoute", "HorizontalPodAutoscaler"}
    assert kinds == wanted
    assert {each["kind"] for each in objects("minimal")} == {"Deployment", "ConfigMap", "Secret", "Service", "Pod"}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_would_take_it(case, version):
    seen = set()
    for each in objects(case):
        identity = (each["kind"], each["metadata"]["name"])
        assert identity not in seen, f"{identity} twice"
        seen.add(identity)
        check_object(each, version)


def test_the_oldest_version_is_the_one_that_the_chart_names():
    assert load(CHART / "Chart.yaml")["kubeVersion"] == f">={KUBERNETES[0]}.0-0"
    assert kubernetes_validate.latest_version().startswith(f"{KUBERNETES[-1]}."), "there are schemas of newer versions"


WRONG = {
    "an unknown value": {"replica": 3},
    "an unknown role": {"roles": {"painter": {"enabled": True}}},
    "an unknown key of a role": {"roles": {"sampler": {"replica": 3}}},
    "a number in words": {"roles": {"sampler": {"replicas": "three"}}},
    "no grace": {"roles": {"sampler": {"graceSeconds": 0}}},
    "a store that is none": {"config": {"store": {"url": "bucket"}}},
    "an unknown section": {"config": {"redis": {"prefix": "a"}}},
    "an unknown setting": {"config": {"broker": {"prefixx": "a"}}},
    "a lane weight of nothing": {"config": {"worker": {"lane_weights": {"bulk": 0}}}},
    "a setting of the chart": {"config": {"telemetry": {"listen": "0.0.0.0:1"}}},
    "a secret in the settings": {"config": {"broker": {"url": "amqp://user:password@rabbitmq"}}},
    "a bundle of one role": {"roles": {"sampler": {"config": {"model": {"bundle": "mine"}}}}},
    "an unknown setting of a role": {"roles": {"sampler": {"config": {"model": {"thread": 1}}}}},
    "a bundle that is a path": {"config": {"model": {"bundle": "/bundles/mine.toml"}}},
    "a variable that is none": {"env": {"echogen-log": "info"}},
    "a variable of no setting": {"roles": {"sampler": {"env": {"ECHOGEN_MAX_BATCH": 3}}}},
    "a digest that is none": {"image": {"digest": "latest"}},
    "an unknown kind of volume": {"models": {"volume": {"type": "disk"}}},
    "large weights in the image": {"config": {"model": {"bundle": "echogen-2b"}}},
    "root": {"podSecurityContext": {"runAsNonRoot": False}},
    "privileges": {"securityContext": {"privileged": True}},
    "a peer that is none": {"networkPolicy": {"serversTo": [{"cidr": "10.0.0.0/8"}]}},
    "a Secret without the broker": {"secret": {"create": True, "values": {"ECHOGEN_CACHE_URL": "redis://redis"}}},
    "a Secret with an unknown key": {"secret": {"values": {"ECHOGEN_AMQP_URL": "amqp://rabbitmq"}}},
    "dispatchers that sleep": {"roles": {"dispatcher": {"autoscaling": {"min": 0}}}},
    "more pods at least than at most": {"autoscaling": {"enabled": True}, "roles": {"encoder": {"autoscaling": {"min": 9}}}},
    "a label by which pods are selected": {"roles": {"sampler": {"podLabels": {"app.kubernetes.io/component": "mine"}}}},
    "such a label of all": {"commonLabels": {"app.kubernetes.io/name": "mine"}},
    "a Secret's key for a setting": {"secret": {"from": {"ECHOGEN_STORE_URL": {"name": "a", "key": "b"}}}},
    "a Secret's key without a name": {"secret": {"from": {"ECHOGEN_BROKER_URL": {"key": "b"}}}},
    "an extra variable of no setting": {"canary": {"extraEnv": [{"name": "ECHOGEN_MAX_BATCH", "value": "3"}]}},
    "a volume without a name": {"roles": {"sampler": {"extraVolumes": [{"emptyDir": {}}]}}},
    "a latency that is no bound": {"metrics": {"rules": {"objectives": {"bulk": {"latency_seconds": 61}}}}},
    "an unknown threshold": {"metrics": {"rules": {"thresholds": {"backlog": 61}}}},
    "a promise of everything": {"metrics": {"rules": {"objectives": {"bulk": {"availability": 1}}}}},
    "an image volume without an image": {"models": {"volume": {"type": "imageVolume"}}},
    "a folder of nodes without a path": {"models": {"volume": {"type": "hostPath"}}},
    "a relative folder of nodes": {"models": {"volume": {"type": "hostPath", "hostPath": "models"}}},
    "a read-only claim that nobody filled": {"models": {"volume": {"type": "claim", "readOnly": True}}},
    "pools of a role that has none": {"roles": {"encoder": {"pools": [{"name": "a"}]}}},
    "two pools of one name": {"roles": {"sampler": {"pools": [{"name": "a"}, {"name": "a"}]}}},
    "a pool without a name": {"roles": {"sampler": {"pools": [{"lanes": ["bulk"]}]}}},
    "a lane that no pool serves": {"roles": {"sampler": {"pools": [{"name": "a", "lanes": ["bulk", "standard"]}]}}},
    "an unknown lane of a pool": {"roles": {"sampler": {"pools": [{"name": "a", "lanes": ["bulk", "express"]}]}}},
    "a pool of no lanes": {"roles": {"sampler": {"pools": [{"name": "a"}, {"name": "b", "lanes": []}]}}},
    "a pool with more pods at least than at most": {"roles": {"sampler": {"pools": [{"name": "a", "autoscaling": {"min": 17}}]}}},
    "a lane of two bundles": {"roles": {"sampler": {"pools": [{"name": "a"}, {"name": "b", "bundle": {"name": "mine"}}]}}},
    "a pool for nothing": {"roles": {"sampler": {"pools": [{"name": "a", "price": {"perHour": 0}}]}}},
    "an unknown key of a pool": {"roles": {"sampler": {"pools": [{"name": "a", "lane": "bulk"}]}}},
    "a pool's label": {"roles": {"sampler": {"podLabels": {"echogen/pool": "a"}}}},
    "an authority of nothing": {"authorities": {"configMap": "a", "servers": ["prometheus"]}},
    "a runbook without an address": {"metrics": {"rules": {"runbookUrl": "docs/operations.md"}}},
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_wrong_values_are_rejected(given):
    with Chart.load(CHART) as chart, pytest.raises(Exception, match="(?i)values|schema|secret.values|above its max"):
        chart.render(given, name="echogen", namespace="pictures")


def test_the_schema_knows_every_value():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(load(CHART / "values.yaml"), schema)


@pytest.mark.parametrize("case", CASES)
def test_selectors_select(case):
    labels = [meta["labels"] for _, meta, _ in pods(case)]
    for each in of_kind(case, "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = each["spec"]
        wanted = spec.get("podSelector", spec.get("selector"))
        wanted = wanted.get("matchLabels", wanted if each["kind"] == "Service" else {})
        assert wanted and any(wanted.items() <= given.items() for given in labels), f"{each['metadata']['name']}"
        if each["kind"] == "Deployment":
            assert wanted.items() <= spec["template"]["metadata"]["labels"].items()
    for monitor in of_kind(case, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        found = [each for each in of_kind(case, "Service") if wanted.items() <= each["metadata"]["labels"].items()]
        # Of the gateway's two one is for administrators alone, and leads to the same pods.
        assert len(found) == len([each for each in of_kind(case, "Service") if not each["metadata"]["name"].endswith("-admin")])
        for each in found:
            assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in each["spec"]["ports"]}
        assert found[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "echogen"


@pytest.mark.parametrize("case", CASES)
def test_pods_have_few_rights(case):
    for owner, _, spec in pods(case):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in [each for each in containers(spec) if "echogen" in each["image"]]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"], owner["metadata"]["name"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
            assert not re.search(r":latest$|^[^:@]+$", container["image"])


@pytest.mark.parametrize("case", CASES)
def test_containers_run_what_the_program_can(case):
    for _, _, spec in pods(case):
        mounts = {volume["name"] for volume in spec["volumes"]}
        for container in ours(spec):
            assert container["args"][0] in program_commands()
            own = {name for name in variables(container) if name.startswith(("ECHOGEN_", "HF_", "OTEL_"))}
            assert own <= program_variables()
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounts


AUTHORITY = "/etc/echogen-authorities/ca.crt"


def files(case):
    """The files of settings, by their key in the ConfigMap."""
    (held,) = [each["data"] for each in of_kind(case, "ConfigMap") if "echogen.toml" in each["data"]]
    return {key: tomllib.loads(text) for key, text in held.items()}


def settings_of(case, spec):
    """The file that a pod reads."""
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "settings"]
    (item,) = volume["configMap"]["items"]
    assert item["path"] == "echogen.toml"
    return files(case)[item["key"]]


def overwritten(table, other):
    both = {name for name in table if isinstance(table[name], dict) and name in other}
    return table | other | {name: overwritten(table[name], other[name]) for name in both}


@pytest.mark.parametrize("case", CASES)
def test_settings_are_files_that_the_program_reads(case):
    given = overwritten(load(CHART / "values.yaml")["config"], values(case).get("config", {}))
    given["telemetry"]["listen"] = f"0.0.0.0:{PORT}"
    if values(case).get("authorities"):
        given = overwritten(given, {name: {"certificates": AUTHORITY} for name in ("broker", "cache", "store")})
    assert files(case)["echogen.toml"] == given
    for role, own, spec in roles_of(case):
        expected = overwritten(given, own["config"])
        if own.get("bundle"):
            expected = overwritten(expected, {"model": {"bundle": own["bundle"]["name"]}})
        found = settings_of(case, spec)
        assert overwritten(found, expected) == found, role
        assert found["worker"].get("lanes") == own.get("lanes")
    for found in files(case).values():
        jsonschema.Draft202012Validator(settings_schema()).validate(found)


@pytest.mark.parametrize("case", CASES)
def test_every_pod_reads_the_file_and_none_finds_other_variables(case):
    for owner, meta, spec in pods(case):
        name = owner["metadata"]["name"]
        assert spec["enableServiceLinks"] is False, f"{name} would get variables of Services that begin with ECHOGEN_"
        volume = next(volume for volume in spec["volumes"] if volume["name"] == "settings")
        (held,) = [each for each in of_kind(case, "ConfigMap") if each["metadata"]["name"] == volume["configMap"]["name"]]
        assert volume["configMap"]["items"][0]["key"] in held["data"]
        for container in ours(spec):
            assert variables(container)["ECHOGEN_CONFIG"] == "/etc/echogen/echogen.toml"
            mount = next(mount for mount in container["volumeMounts"] if mount["name"] == "settings")
            assert mount["mountPath"] == "/etc/echogen" and mount["readOnly"]
            assert not any("configMapRef" in source for source in container.get("envFrom", []))
        if owner["kind"] == "Deployment":
            assert meta["annotations"]["checksum/config"]


def test_only_secrets_are_variables():
    for case in ("default", "minimal", "own-bundle"):
        for _, _, spec in pods(case):
            for container in containers(spec):
                assert set(variables(container)) <= {"ECHOGEN_CONFIG", "ECHOGEN_MODEL_HUB_TOKEN"}


def test_a_change_of_the_settings_restarts_the_pods():
    def checksums(config):
        with Chart.load(CHART) as chart:
            texts = chart.render({"config": config}, name="echogen", namespace="pictures")
        return set(re.findall(r"checksum/config: (\w+)", "".join(texts.values())))

    before, after = checksums({}), checksums({"sampler": {"max_batch": 8}})
    assert len(before) == len(after) == 1 and before != after


def test_the_schema_has_every_setting_that_values_may_set():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    may = {".".join(path) for path, _ in generate.leaves(schema["definitions"]["config"])}
    every = {".".join(path): each for path, each in generate.leaves(settings_schema())}
    secrets = {name for name, each in every.items() if each.get("writeOnly")}
    assert set(generate.OWN_SETTINGS) <= set(every) and "broker.url" in secrets
    assert may == set(every) - secrets - set(generate.OWN_SETTINGS)


def test_the_page_and_the_schema_of_the_configuration_have_the_same_variables():
    others = {"HF_TOKEN", "HF_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert program_variables() - others == set(generate.variables())


@pytest.mark.parametrize("case", CASES)
def test_what_pods_refer_to_is_there(case):
    claims = {each["metadata"]["name"] for each in of_kind(case, "PersistentVolumeClaim")}
    maps = {each["metadata"]["name"] for each in of_kind(case, "ConfigMap")}
    # Made by others: RabbitMQ's operator, and whoever runs the servers.
    foreign = {each["name"] for each in values(case).get("secret", {}).get("from", {}).values()}
    secrets = {each["metadata"]["name"] for each in of_kind(case, "Secret")} | {values(case).get("secret", {}).get("name")}
    accounts = {each["metadata"]["name"] for each in of_kind(case, "ServiceAccount")} | {"default"}
    for _, _, spec in pods(case):
        assert spec["serviceAccountName"] in accounts
        for volume in spec["volumes"]:
            # Claims with the weights of pools' own bundles are the installer's.
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in claims | {None, "weights-q8"}
            assert volume.get("configMap", {}).get("name") in maps | {None}
            authority = values(case).get("authorities", {}).get("secret")
            tenants = values(case).get("gateway", {}).get("tenants", {}).get("secret")
            assert volume.get("secret", {}).get("secretName") in {None, authority, tenants}
        for variable in [each for container in containers(spec) for each in container.get("env", [])]:
            asked = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name")
            assert asked in secrets | foreign | {None, "echogen"}
        for source in [source for container in containers(spec) for source in container.get("envFrom", [])]:
            assert source.get("configMapRef", {}).get("name") in maps | {None}
            # Without a name, the Secret is one that the installer makes, called like the release.
            assert source.get("secretRef", {}).get("name") in secrets | {None, "echogen"}


@pytest.mark.parametrize("case", CASES)
def test_probes_use_the_port_that_is_listened_on(case):
    for owner in of_kind(case, "Deployment"):
        assert settings_of(case, owner["spec"]["template"]["spec"])["telemetry"]["listen"] == f"0.0.0.0:{PORT}"
        container = owner["spec"]["template"]["spec"]["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            if name in container:
                assert ports[container[name]["httpGet"]["port"]] == PORT
                assert container[name]["httpGet"]["path"] == ("/readyz" if name == "readinessProbe" else "/livez")


@pytest.mark.parametrize("case", CASES)
def test_roles_are_given_the_time_that_they_need(case):
    for _, own, spec in roles_of(case):
        container = spec["containers"][0]
        grace = settings_of(case, spec)["worker"]["grace_seconds"]
        assert grace == own["graceSeconds"]
        assert spec["terminationGracePeriodSeconds"] > grace + 10
        probe = container["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= own["startupSeconds"]


def test_a_gpu_comes_with_the_image_that_can_use_it():
    full = values("full")["image"]
    for role in ROLES:
        container = pod_of("full", role)["containers"][0]
        gpus = container["resources"]["limits"].get("nvidia.com/gpu")
        assert settings_of("full", pod_of("full", role))["model"].get("device") == (gpus and "cuda")
        assert gpus == (None if role == "dispatcher" else 1)
        assert container["image"].endswith(full["cudaDigest"] if gpus else full["digest"])
    assert pod_of("default", "sampler")["containers"][0]["image"].count("cuda") == 0


def test_weights_are_pulled_and_verified_where_they_are_read():
    job = pod_of("full", "models")
    assert [container["args"][:2] for container in ours(job)] == [["models", "pull"], ["models", "verify"]]
    (secret,) = [each for each in containers(job)[0]["env"] if "secretKeyRef" in each.get("valueFrom", {})]
    assert secret["name"] == secret["valueFrom"]["secretKeyRef"]["key"] in program_variables()
    sampler = pod_of("full", "sampler")
    wait, *verify = sampler["initContainers"]
    assert [container["args"] for container in verify] == [["models", "verify", "echogen-2b"]]
    # Pods wait for the mark that the Job sets last, and read no weights meanwhile.
    mark = job["containers"][0]["command"][2].removeprefix("touch ")
    assert mark.startswith("/opt/echogen/bundles/echogen-2b/.complete-") and f"[ -e {mark} ]" in wait["command"][2]
    assert wait["volumeMounts"] == [{"name": "models", "mountPath": "/opt/echogen/bundles/echogen-2b", "readOnly": True}]
    own = pod_of("own-bundle", "sampler")
    assert [container["args"][1] for container in own["initContainers"]] == ["pull", "verify"]
    for spec, bundle in ((job, "echogen-2b"), (sampler, "echogen-2b"), (own, "mine")):
        for container in ours(spec):
            assert f"/opt/echogen/bundles/{bundle}" in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert "initContainers" not in pod_of("default", "sampler")


VOLUMES = {
    "imageVolume": {"image": {"reference": "registry.example.org/weights@sha256:0"}},
    "hostPath": {"hostPath": "/var/lib/echogen"},
    "claim": {"existingClaim": "weights", "readOnly": True},
}


@pytest.mark.parametrize("kind", VOLUMES)
def test_weights_may_be_where_nothing_is_written(kind):
    volume = {"type": kind} | VOLUMES[kind]
    found = given_objects({"config": {"model": {"bundle": "echogen-2b"}}, "models": {"volume": volume}})
    for each in found:
        if each["kind"] != "ServiceMonitor":
            kubernetes_validate.validate(each, KUBERNETES[-1], strict=True)
    assert not [each for each in found if each["kind"] in ("Job", "PersistentVolumeClaim")]
    (sampler,) = [each["spec"]["template"]["spec"] for each in found if each["metadata"]["name"] == "echogen-sampler"
                  and each["kind"] == "Deployment"]
    (mounted,) = [each for each in sampler["volumes"] if each["name"] == "models"]
    assert mounted == {
        "imageVolume": {"name": "models", "image": VOLUMES["imageVolume"]["image"] | {"pullPolicy": "IfNotPresent"}},
        "hostPath": {"name": "models", "hostPath": {"path": "/var/lib/echogen", "type": "Directory"}},
        "claim": {"name": "models", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}},
    }[kind]
    # Of a node's pods the first one fetches; all other kinds have the weights already.
    commands = [container["args"][1] for container in sampler["initContainers"]]
    assert commands == (["pull", "verify"] if kind == "hostPath" else ["verify"])
    for container in ours(sampler):
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "models"]
        writes = kind == "hostPath" and container in sampler["initContainers"]
        assert mount.get("readOnly", False) != writes, container["name"]


def test_roles_are_scaled_by_the_work_that_waits():
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in of_kind("full", "ScaledObject")}
    deployments = {each["metadata"]["name"]: each for each in of_kind("full", "Deployment")}
    assert {f"pictures-{role}" for role in ROLES} == set(scaled)
    for role, (stage, *_) in ROLES.items():
        spec = scaled[f"pictures-{role}"]
        assert "replicas" not in deployments[f"pictures-{role}"]["spec"], "a fixed number would conflict with KEDA"
        (trigger,) = spec["triggers"]
        check(trigger["metadata"]["query"])
        for metric in ("work_waiting_seconds", "queue_messages", "tasks_in_progress", "ready"):
            assert f'echogen_{metric}{{namespace="pictures",release="echogen",stage="{stage}"}}' in trigger["metadata"]["query"]
    assert not of_kind("default", "ScaledObject")


def of_pools(kind):
    """The samplers' objects of a kind, by their pool."""
    found = [each for each in of_kind("pools", kind) if each["metadata"]["labels"].get("app.kubernetes.io/component") == "sampler"]
    return {each["metadata"]["labels"].get("echogen/pool"): each for each in found}


def test_each_pool_has_objects_of_its_own():
    for kind in ("Deployment", "ScaledObject", "PodDisruptionBudget"):
        found = of_pools(kind)
        assert {name: each["metadata"]["name"] for name, each in found.items()} == {
            "h100": "echogen-sampler-h100",
            "l4": "echogen-sampler-l4",
        }
    selectors = [each["spec"]["selector"]["matchLabels"] for each in of_pools("Deployment").values()]
    for kind in ("Deployment", "PodDisruptionBudget"):
        for name, each in of_pools(kind).items():
            selector = each["spec"]["selector"]["matchLabels"]
            assert selector in selectors and selector["echogen/pool"] == name, "no pod is selected twice"
    budgets = of_pools("PodDisruptionBudget")
    assert (budgets["h100"]["spec"]["maxUnavailable"], budgets["l4"]["spec"]["maxUnavailable"]) == (1, "50%")
    scaled = {name: each["spec"] for name, each in of_pools("ScaledObject").items()}
    assert scaled["l4"]["scaleTargetRef"]["name"] == "echogen-sampler-l4"
    assert [(each["minReplicaCount"], each["maxReplicaCount"]) for each in scaled.values()] == [(1, 8), (0, 20)]
    for name, each in of_pools("Deployment").items():
        spec = each["spec"]["template"]["spec"]
        assert spec["nodeSelector"] == {"gpu": name}
        assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1, "what a pool does not say, the role does"
        assert spec["terminationGracePeriodSeconds"] == {"h100": 320, "l4": 620}[name]
        for constraint in spec["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"]["echogen/pool"] == name
    assert {each["metadata"]["annotations"]["echogen/price-per-hour"] for each in of_pools("Deployment").values()} == {"4.5", "0.7"}


def test_a_pool_reads_its_bundle_and_serves_its_lanes():
    large, small = (pod_of("pools", "sampler", name) for name in ("h100", "l4"))
    assert [settings_of("pools", spec)["worker"]["lanes"] for spec in (large, small)] == [["interactive", "standard"], ["bulk"]]
    assert [settings_of("pools", spec)["model"] for spec in (large, small)] == [
        {"bundle": "echogen-2b", "device": "cuda", "threads": 2},
        {"bundle": "echogen-2b-q8_0", "device": "cuda", "threads": 2},
    ]
    assert [container["name"] for container in large["initContainers"]] == ["wait", "verify"]
    (verify,) = small["initContainers"]
    assert verify["args"] == ["models", "verify", "echogen-2b-q8_0"]
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "weights-q8", "readOnly": True}} in small["volumes"]
    for container in (verify, small["containers"][0]):
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "models"]
        assert mount == {"name": "models", "mountPath": "/opt/echogen/bundles/echogen-2b-q8_0", "readOnly": True}


def test_a_change_of_one_pool_leaves_the_names_and_selectors_of_the_other():
    given = values("pools")
    before = {each["metadata"]["name"]: each for each in given_objects(given) if each["kind"] == "Deployment"}
    pools = given["roles"]["sampler"]["pools"]
    more = overwritten(given, {"roles": {"sampler": {"pools": [*pools, {"name": "more", "lanes": ["bulk"], "bundle": pools[1]["bundle"]}]}}})
    after = {each["metadata"]["name"]: each for each in given_objects(more) if each["kind"] == "Deployment"}
    assert set(after) - set(before) == {"echogen-sampler-more"} and set(before) <= set(after)
    for name, each in before.items():
        assert each["spec"]["selector"] == after[name]["spec"]["selector"]


def test_series_and_alerts_say_which_pool():
    (monitor,) = of_kind("pools", "ServiceMonitor")
    relabelings = monitor["spec"]["endpoints"][0]["relabelings"]
    assert {"sourceLabels": ["__meta_kubernetes_pod_label_echogen_pool"], "targetLabel": "pool"} in relabelings
    rules = {each["metadata"]["name"]: each["spec"]["groups"] for each in of_kind("pools", "PrometheusRule")}
    alerts = {rule["alert"]: rule["expr"] for group in rules["echogen-alerts"] for rule in group["rules"]}
    assert "by (namespace, release, stage, instance, pod, node, pool)" in alerts["EchogenNotReady"]
    (costs,) = rules["echogen-pools"]
    assert [rule["record"] for rule in costs["rules"]] == ["pool:echogen_cost_per_hour:sum"] * 2 + ["pool:echogen_cost_per_picture:ratio1h"]
    for rule in costs["rules"]:
        promql.parse(rule["expr"])
    assert not [name for name in (each["metadata"]["name"] for each in of_kind("full", "PrometheusRule")) if "pools" in name]


def test_rules_and_dashboards_are_the_ones_of_deploy():
    rules = {each["metadata"]["name"]: each["spec"] for each in of_kind("full", "PrometheusRule")}
    given = mixin.read(mixin.VALUES)
    given |= {"selector": 'namespace="pictures",release="echogen",', "runbook_url": "https://wiki.example.org/echogen"}
    # The samplers of this case are scaled to zero, and take half an hour to come back.
    given["thresholds"] |= {"stuck_for": "35m", "not_ready_for": "35m", "canary_slow_seconds": 1860, "backlog_seconds": 3600}
    given["objectives"]["interactive"]["latency_seconds"] = 30
    for name, text in mixin.rules(given).items():
        assert rules[f"pictures-{name.removesuffix('.yaml')}"] == yaml.safe_load(text)
    for group in rules["pictures-alerts"]["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["runbook_url"].startswith("https://wiki.example.org/echogen#")
    boards = next(each for each in of_kind("full", "ConfigMap") if each["metadata"]["name"] == "pictures-dashboards")
    for path in (DEPLOY / "grafana/dashboards").glob("*.json"):
        assert json.loads(boards["data"][path.name]) == json.loads(path.read_text(encoding="utf-8"))


def test_every_query_of_a_release_selects_that_release():
    queries = [each["metadata"]["query"] for scaled in of_kind("full", "ScaledObject") for each in scaled["spec"]["triggers"]]
    for rules in of_kind("full", "PrometheusRule"):
        queries += [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert len(queries) > 80
    for query in queries:
        for node in nodes(promql.parse(query)):
            if isinstance(node, promql.VectorSelector):
                wanted = {matcher.name: matcher.value for matcher in node.matchers.matchers}
                assert (wanted["namespace"], wanted["release"]) == ("pictures", "echogen"), query
    (monitor,) = of_kind("full", "ServiceMonitor")
    written = {each["targetLabel"] for each in monitor["spec"]["endpoints"][0]["relabelings"]}
    assert written == {"namespace", "release", "pod", "node"}


def test_the_labels_of_installations_can_have_other_names():
    labels = {"namespace": "kubernetes_namespace", "release": ""}
    metrics = {"labels": labels} | {name: {"enabled": True} for name in ("rules", "dashboards", "serviceMonitor")}
    given = {"metrics": metrics, "autoscaling": {"enabled": True}}
    with Chart.load(CHART) as chart:
        texts = chart.render(given, name="echogen", namespace="pictures")
    queries = "".join(texts[f"echogen/templates/{name}.yaml"] for name in ("prometheusrule", "scaledobjects"))
    assert 'kubernetes_namespace="pictures"' in queries and "release=" not in queries and "<" not in queries.replace("< 0.5", "")
    assert "by (kubernetes_namespace, stage)" in queries
    boards = texts["echogen/templates/dashboards.yaml"]
    assert 'kubernetes_namespace=~' in boards and 'no_release=~' in boards and "<namespace>" not in boards


def egress(objects, ending=""):
    """The rules of a policy, each as its networks and ports."""
    (policy,) = [each for each in objects if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].endswith(ending)]
    found = []
    for rule in policy["spec"]["egress"]:
        networks = [peer["ipBlock"]["cidr"] for peer in rule.get("to", []) if "ipBlock" in peer]
        found.append((networks, [each["port"] for each in rule.get("ports", [])], rule))
    return policy, found


def given_objects(given):
    with Chart.load(CHART) as chart:
        texts = chart.render(given, name="echogen", namespace="pictures")
    found = [each for name, text in texts.items() if name.endswith(".yaml") for each in yaml.load_all(text, yaml.CSafeLoader)]
    return [each for each in found if each]


def test_addresses_of_clients_are_reached_on_the_internet_only():
    policy, ((networks, ports, rule),) = egress(objects("default"), "-internet")
    four, six = (peer["ipBlock"] for peer in rule["to"])
    assert networks == ["0.0.0.0/0", "::/0"] and ports == [443]
    assert "169.254.0.0/16" in four["except"] and "fc00::/7" in six["except"]
    # Kubernetes refuses exceptions that are not in their block.
    assert not any(":" in each for each in four["except"]) and all(":" in each for each in six["except"])
    assert policy["spec"]["podSelector"]["matchExpressions"][0]["values"] == ["dispatcher", "models"]
    own, _ = egress(objects("own-bundle"), "-internet")
    assert set(own["spec"]["podSelector"]["matchExpressions"][0]["values"]) == set(ROLES)


def test_networks_that_the_settings_allow_are_reached():
    _, (_, (networks, ports, _)) = egress(objects("full"), "-internet")
    assert networks == ["10.1.0.0/16"] and ports == [443, 8443]
    given = {"config": {"callbacks": {"allowed_networks": ["10.2.0.0/16"]}}, "networkPolicy": {"internetPorts": [443, 8443]}}
    _, ((_, internet, _), (networks, ports, _)) = egress(given_objects(given), "-internet")
    assert internet == [443, 8443] and networks == ["10.2.0.0/16"] and not ports


def test_dns_is_reached_on_nodes_and_on_openshift():
    _, ((networks, ports, rule), *_) = egress(of_kind("default", "NetworkPolicy")[:1])
    assert {53, 5353} == set(ports) and networks == ["169.254.20.10/32"]
    assert {"namespaceSelector": {}} in rule["to"]


def test_a_cloud_role_is_reached_although_servers_are_named():
    _, (_, (servers, _, _), (agent, ports, _), (anywhere, sts, rule)) = egress(of_kind("full", "NetworkPolicy")[:1])
    assert servers == ["192.0.2.0/24"]
    assert agent == ["169.254.170.23/32", "fd00:ec2::23/128"] and ports == [80]
    assert not anywhere and sts == [443] and "to" not in rule
    assert len(egress(of_kind("default", "NetworkPolicy")[:1])[1]) == 2


def test_a_cluster_without_ipv4_is_listened_on():
    for each in given_objects({"ipv6": True}):
        if each["kind"] == "ConfigMap":
            for text in each["data"].values():
                assert tomllib.loads(text)["telemetry"]["listen"] == f"[::]:{PORT}"


def test_the_secret_of_the_operator_of_rabbitmq_can_be_used():
    for role in ROLES:
        container = pod_of("full", role)["containers"][0]
        found = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in container["env"] if each["name"].endswith("_URL")}
        assert found["ECHOGEN_BROKER_URL"] == {"name": "rabbitmq-default-user", "key": "connection_string"}
        assert found["ECHOGEN_CACHE_URL"] == {"name": "cache", "key": "url"}
        # All may be there, so the release's own Secret is not needed.
        assert container["envFrom"] == [{"secretRef": {"name": "echogen-servers", "optional": True}}]
    assert pod_of("default", "sampler")["containers"][0]["envFrom"] == [{"secretRef": {"name": "echogen"}}]


@pytest.mark.parametrize("component", [*ROLES, "canary", "test", "models"])
def test_a_private_authority_is_mounted_where_the_settings_say(component):
    spec = pod_of("full", component)
    (volume,) = [each for each in spec["volumes"] if each["name"] == "authorities"]
    assert volume["secret"]["secretName"] == "data-authority"
    for container in ours(spec):
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "authorities"]
        assert f"{mount['mountPath']}/{volume['secret']['items'][0]['path']}" == AUTHORITY
    assert settings_of("full", spec)["broker"]["certificates"] == AUTHORITY


def test_pods_are_restarted_when_a_secret_is_said_to_have_changed():
    for owner, meta, _ in pods("full"):
        if owner["kind"] == "Deployment":
            assert meta["annotations"]["checksum/secret"] == "2026-03-01"


def test_pods_take_what_an_installer_adds():
    sampler = pod_of("full", "sampler")
    assert sampler["runtimeClassName"] == "nvidia" and sampler["containers"][1]["name"] == "exporter"
    assert {"name": "cache", "mountPath": "/cache"} in sampler["containers"][0]["volumeMounts"]
    assert any(each["name"] == "cache" for each in sampler["volumes"])
    node = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    assert node in sampler["containers"][0]["env"] and node in pod_of("full", "canary")["containers"][0]["env"]
    assert pod_of("full", "canary")["nodeSelector"] == pod_of("full", "models")["nodeSelector"] == {"pool": "small"}
    assert pod_of("full", "test")["tolerations"][0]["key"] == "nvidia.com/gpu"
    job = pod_of("full", "models")
    assert job["runtimeClassName"] == "gvisor"
    assert all({"name": "mirror", "mountPath": "/mirror"} in container["volumeMounts"] for container in ours(job))
    (more,) = [each for each in of_kind("full", "ConfigMap") if each["metadata"]["name"] == "echogen-more"]
    assert more["data"] == {"namespace": "pictures"}


def test_a_canary_lets_what_is_scaled_to_zero_sleep():
    def arguments(given):
        (canary,) = [each for each in given_objects(given) if each["metadata"]["name"] == "echogen-canary" and "spec" in each
                     and each["kind"] == "Deployment"]
        return canary["spec"]["template"]["spec"]["containers"][0]["args"]

    assert arguments({}) == ["canary", "--every", "60", "--limit", "120"]
    asleep = {"autoscaling": {"enabled": True}, "roles": {"sampler": {"autoscaling": {"min": 0}}}}
    # Every six hours, and it waits as long as a sampler may take to start.
    assert arguments(asleep) == ["canary", "--every", "21600", "--limit", "1920"]
    rules = given_objects(asleep | {"metrics": {"rules": {"enabled": True}}})
    found = {rule["alert"]: rule for each in rules if each["kind"] == "PrometheusRule" for group in each["spec"]["groups"]
             for rule in group["rules"] if "alert" in rule}
    assert found["EchogenStageStuck"]["for"] == "35m" and "> 1860" in found["EchogenCanarySlow"]["expr"]
    assert found["EchogenNotReady"]["for"] == "35m"


@pytest.mark.parametrize("case", CASES)
def test_the_notes_say_what_is_left_to_do(case):
    notes = generate.rendered(case)["echogen/templates/NOTES.txt"]
    assert "helm test echogen --namespace pictures" in notes
    assert ("create secret generic" in notes) == (case != "minimal")
