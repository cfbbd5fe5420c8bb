"""The gateway in the chart: its ports, its file of tenants, who may call it, and that administrators' requests stay inside."""

import pytest
from common import DEPLOY, PORT, load
from test_chart import egress, given_objects, objects, of_kind, pod_of, settings_of


def spec_of(kind, name):
    (found,) = [each for each in of_kind("full", kind) if each["metadata"]["name"] == name]
    return found["spec"]


def test_it_is_off_by_default_and_names_nothing():
    assert not [each for each in objects("default") if "gateway" in each["metadata"]["name"]]
    # Also nothing that another pod of such a cluster could be taken for.
    (policy, _) = egress(objects("default"), "-internet")
    assert "gateway" not in policy["spec"]["podSelector"]["matchExpressions"][0]["values"]


def test_ports_are_those_that_the_settings_listen_on():
    spec = pod_of("full", "gateway")
    ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
    settings = settings_of("full", spec)["gateway"]
    assert ports["metrics"] == PORT
    assert settings["listen"] == f"0.0.0.0:{ports['http']}" and settings["admin_listen"] == f"0.0.0.0:{ports['admin']}"
    assert settings["public_url"] == "https://pictures.example.org"
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert spec["containers"][0][name]["httpGet"]["port"] == "metrics"


def test_the_tenants_are_a_folder_so_that_a_change_arrives():
    spec = pod_of("full", "gateway")
    (volume,) = [each for each in spec["volumes"] if each["name"] == "tenants"]
    (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "tenants"]
    assert "subPath" not in mount and volume["secret"]["secretName"] == "tenants"
    assert settings_of("full", spec)["gateway"]["tenants"] == f"{mount['mountPath']}/tenants.toml"


def test_a_pod_goes_when_nobody_calls_it_any_more():
    spec = pod_of("full", "gateway")
    wait = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > wait + 5


def test_administrators_have_a_service_of_their_own_that_no_route_leads_to():
    public, admin = spec_of("Service", "pictures-gateway"), spec_of("Service", "pictures-gateway-admin")
    assert {port["name"] for port in public["ports"]} == {"http", "metrics"}
    assert [port["name"] for port in admin["ports"]] == ["admin"] and admin["type"] == "ClusterIP"
    for rule in spec_of("Ingress", "pictures-gateway")["rules"]:
        for path in rule["http"]["paths"]:
            assert path["backend"]["service"] == {"name": "pictures-gateway", "port": {"name": "http"}}
    (rule,) = spec_of("HTTPRoute", "pictures-gateway")["rules"]
    assert rule["backendRefs"] == [{"name": "pictures-gateway", "port": public["ports"][0]["port"]}]
    # Streams of events stay open.
    assert rule["timeouts"] == {"request": "0s"}
    # Prometheus finds each pod once.
    (monitor,) = of_kind("full", "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    scraped = [each for each in of_kind("full", "Service") if wanted <= each["metadata"]["labels"].items()]
    assert all({"metrics"} & {port["name"] for port in each["spec"]["ports"]} for each in scraped)


def test_the_policy_admits_callers_to_the_api_and_only_neighbours_to_the_administrators_port():
    rules = spec_of("NetworkPolicy", "pictures-gateway")["ingress"]
    assert rules[0] == {"ports": [{"port": "http"}]}
    assert rules[1] == {"from": [{"podSelector": {}}], "ports": [{"port": "admin"}]}


def test_it_is_scaled_by_cpu_and_requests():
    spec = spec_of("HorizontalPodAutoscaler", "pictures-gateway")
    assert spec["metrics"][0]["resource"]["name"] == "cpu"
    assert spec["metrics"][1]["pods"]["target"] == {"type": "AverageValue", "averageValue": "200"}
    (deployment,) = [each for each in of_kind("full", "Deployment") if each["metadata"]["name"] == "pictures-gateway"]
    assert "replicas" not in deployment["spec"], "a fixed number would conflict with the autoscaler"


WRONG = {
    "no tenants": {"enabled": True},
    "an Ingress without a host": {"enabled": True, "tenants": {"secret": "a"}, "ingress": {"enabled": True}},
    "a route of no Gateway": {"enabled": True, "tenants": {"secret": "a"}, "httpRoute": {"enabled": True}},
    "a port of its own": {"config": {"gateway": {"listen": "0.0.0.0:1"}}},
    "a key in the settings": {"config": {"gateway": {"key": "eg_12345678_x"}}},
    "more pods at least than at most": {
        "enabled": True,
        "tenants": {"secret": "a"},
        "autoscaling": {"enabled": True, "min": 20},
    },
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_values_that_cannot_work_are_refused(given):
    with pytest.raises(Exception, match="(?i)schema|above its max"):
        given_objects({"gateway": given})


def test_compose_runs_it():
    service = load(DEPLOY / "compose.yaml")["services"]["gateway"]
    assert "profiles" not in service and service["command"] == ["gateway"]
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    assert "ECHOGEN_GATEWAY_KEY" in service["environment"]
