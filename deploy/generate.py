#!/usr/bin/env python3
"""Writes all files below deploy/ and helm/ that are generated from others.

    deploy/check.sh --update

| file | from |
|---|---|
| grafana/dashboards/*.json | grafana/dashboards.py, grafana/infrastructure.py, stages.json |
| prometheus/rules/ | prometheus/mixin/, by mixin.py |
| helm/echogen/files/ | prometheus/mixin/, the dashboards, stages.json |
| helm/echogen/values.schema.json: settings, variables, roles | echogen.schema.json, stages.json |
| helm/echogen/README.md | helm/echogen/values.yaml |
| helm/snapshots/*.yaml | the chart, rendered with the values of helm/echogen/ci/ |

`deploy/check.sh` without `--update` fails if one differs. Tests of the Rust crates write stages.json (the list of stages and
roles) and echogen.schema.json (the JSON Schema of the configuration).
"""

import hashlib
import json
import re
import sys
from functools import cache
from pathlib import Path

import yaml
from helm_python.chart import Chart

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm/echogen"
sys.path.insert(0, str(ROOT / "deploy/grafana"))
import dashboards  # noqa: E402 -- it lies beside its product

sys.path.insert(0, str(ROOT / "deploy"))
import mixin  # noqa: E402

CASES = {"default": None} | {
    path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))
}
# Settings that the chart sets itself, so values may not.
OWN_SETTINGS = ["model.bundles", "telemetry.listen", "worker.grace_seconds"]
OWN_SETTINGS += ["gateway.listen", "gateway.admin_listen", "gateway.tenants"]
README_HEAD = """\
# EchoGen's Helm chart

One Deployment for each role ({roles}). RabbitMQ, Redis and the object store are not part of
the chart. [docs/operations.md](../../docs/operations.md) describes sizing, upgrades and what to do about each alert.

```console
$ kubectl create namespace pictures
$ kubectl --namespace pictures create secret generic echogen \\
    --from-literal=ECHOGEN_BROKER_URL='amqps://USER:PASSWORD@HOST:5671/%2f' \\
    --from-literal=ECHOGEN_CACHE_URL='rediss://:PASSWORD@HOST:6379/0' \\
    --from-literal=ECHOGEN_STORE_ACCESS_KEY_ID=KEY --from-literal=ECHOGEN_STORE_SECRET_ACCESS_KEY=SECRET
$ helm install echogen helm/echogen --namespace pictures \\
    --set config.store.url=s3://BUCKET --set image.repository=IMAGE
$ helm test echogen --namespace pictures
```

Installed by default: the Deployments, a canary, PodDisruptionBudgets, NetworkPolicies, and a ServiceAccount without rights.
Pods run as an unprivileged user, without capabilities, on a read-only root file system, with the default seccomp profile. Off
by default, because they need something in the cluster: `autoscaling` (KEDA), `metrics.*` (Prometheus operator, Grafana's
sidecar), `models.volume` (a volume for published weights), `roles.*.gpu` (GPUs).

Settings of the program are in `config`, with the sections and names of [docs/configuration.md](../../docs/configuration.md);
the chart's schema rejects unknown names and values out of bounds:

```yaml
config:
  store:
    url: s3://pictures/production
    endpoint: https://s3.example.org
  worker:
    concurrency: {{sampler: 64}}
  sampler:
    max_batch: 32
```

They become `echogen.toml`, which is mounted from a ConfigMap into every pod; settings in `roles.NAME.config` are added to the
file of that role. A checksum in the pods' annotations restarts them when a setting changes. Secrets are read from a Secret whose keys are environment variables:

{secrets}

Examples that the tests render: [minimal](ci/minimal-values.yaml), [everything](ci/full-values.yaml),
[a bundle of your own](ci/own-bundle-values.yaml), [pools of samplers](ci/pools-values.yaml).

## Values

The other roles have the same keys as `roles.dispatcher`; they are listed only where their default differs.

| value | default | meaning |
|---|---|---|
"""


@cache
def stages():
    """The list of stages and roles."""
    return json.loads((ROOT / "deploy/stages.json").read_text(encoding="utf-8"))


@cache
def settings():
    """The JSON Schema of echogen.toml."""
    return json.loads((ROOT / "deploy/echogen.schema.json").read_text(encoding="utf-8"))


def leaves(table, path=()):
    """Every setting of a schema: its path, and its own schema."""
    for name, each in table["properties"].items():
        if "properties" in each:
            yield from leaves(each, (*path, name))
        else:
            yield (*path, name), each


def variable(path):
    return "_".join(["ECHOGEN", *path]).upper()


def is_secret(schema):
    return schema.get("writeOnly", False)


def variables():
    """The environment variables of the settings."""
    return sorted({variable(path) for path, _ in leaves(settings())} | {"ECHOGEN_CONFIG"})


def secrets():
    return sorted(variable(path) for path, each in leaves(settings()) if is_secret(each))


def values_schema(text):
    """The chart's schema, with the parts that follow from the list of settings and of roles written anew."""
    schema = json.loads(text)
    config = json.loads(json.dumps(settings()))
    del config["$schema"], config["title"]
    config["description"] = "Generated from deploy/echogen.schema.json, without secrets and what the chart sets itself."
    for path, each in list(leaves(config)):
        if is_secret(each) or ".".join(path) in OWN_SETTINGS:
            table = config
            for name in path[:-1]:
                table = table["properties"][name]
            del table["properties"][path[-1]]
    # The chart makes a path of the bundle's name, and the roles of a cluster share no folder.
    config["properties"]["model"]["properties"]["bundle"]["pattern"] = "^[A-Za-z0-9][A-Za-z0-9._-]*$"
    config["properties"]["store"]["properties"]["url"]["pattern"] = "^(s3://[a-z0-9][a-z0-9.-]*(/.*)?|/.+)$"
    schema["definitions"]["config"] = config
    schema["properties"]["roles"]["properties"] = {
        role["name"]: {"$ref": "#/definitions/role"} for role in stages()["roles"]
    }
    # Samplers can have pools, of the same keys and some more.
    for name in [role["name"] for role in stages()["roles"] if role["name"] != "sampler"]:
        none = {"pools": {"maxItems": 0}}
        schema["properties"]["roles"]["properties"][name] = {"allOf": [{"$ref": "#/definitions/role"}], "properties": none}
    schema["definitions"]["pool"] = pool_schema(schema["definitions"]["role"], config["properties"]["worker"])
    # Dispatchers report the queues by which all roles are scaled, and send callbacks.
    first = stages()["roles"][0]["name"]
    awake = {"autoscaling": {"properties": {"min": {"minimum": 1}}}}
    schema["properties"]["roles"]["properties"][first]["properties"] |= awake
    schema["properties"]["secret"]["properties"]["from"]["propertyNames"] = {"enum": secrets()}
    schema["properties"]["metrics"]["properties"]["rules"]["properties"] |= rules_schema()
    schema["definitions"]["variable"] = {
        "$comment": "Generated from deploy/echogen.schema.json: no variable of EchoGen's prefix that is not a setting.",
        "pattern": "^[A-Z_][A-Z0-9_]*$",
        "anyOf": [{"not": {"pattern": "^ECHOGEN_"}}, {"enum": variables()}],
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def pool_schema(role, worker):
    """A pool of a role: what the role has, but for its name, its lanes, its bundle and its price."""
    lane = worker["properties"]["lanes"]["items"]
    bundle = {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"},
        "volume": {"type": "object", "maxProperties": 1},
    }
    own = {
        "name": {"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,14}[a-z0-9])?$"},
        "lanes": {"type": "array", "minItems": 1, "uniqueItems": True, "items": lane},
        "bundle": {"type": "object", "additionalProperties": False, "required": ["name"], "properties": bundle},
        "price": {
            "type": "object",
            "additionalProperties": False,
            "required": ["perHour"],
            "properties": {"perHour": {"type": "number", "exclusiveMinimum": 0}},
        },
    }
    inherited = {name: each for name, each in role["properties"].items() if name not in ("enabled", "pools")}
    return {
        "$comment": "Generated from the role.",
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": inherited | own,
    }


def rules_schema():
    """The values of the rules: those of the mixin, and no others."""
    values = mixin.read(mixin.VALUES)
    number = {"type": "number", "exclusiveMinimum": 0}
    duration = {"type": "string", "pattern": "^[0-9]+[smhd]$"}
    share = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    lane = {
        "availability": share,
        "latency": share,
        "latency_seconds": {"enum": mixin.bounds()},
        "page": {"type": "boolean"},
    }
    lane = {"type": "object", "additionalProperties": False, "properties": lane}
    thresholds = {name: duration if isinstance(each, str) else number for name, each in values["thresholds"].items()}
    return {
        "thresholds": {"type": "object", "additionalProperties": False, "properties": thresholds},
        "objectives": {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: lane for name in values["objectives"]},
        },
    }


def rows(text):
    """Each value of values.yaml, in order: path, default, and the comment above it."""
    values = yaml.safe_load(text)
    found, path, comment = [], [], []
    for line in text.splitlines()[1:]:
        if match := re.fullmatch(r"\s*# (.*)", line):
            comment.append(match[1])
            continue
        if match := re.match(r"( *)([A-Za-z0-9_]+):(.*)", line):
            depth = len(match[1]) // 2
            path = [*path[:depth], match[2]]
            value = values
            for key in path:
                value = value[key]
            if match[3].strip() or not isinstance(value, dict) or path[-1] in ("requests", "limits"):
                found.append((".".join(path), value, " ".join(comment)))
            elif comment or path[-1] == "resources":
                found.append((".".join(path), None if has_children(value) else value, " ".join(comment)))
        comment = []
    return found


def has_children(value):
    return isinstance(value, dict) and value


def readme():
    first = {}
    lines = []
    for path, value, comment in rows((CHART / "values.yaml").read_text(encoding="utf-8")):
        role = re.fullmatch(r"roles\.(\w+)\.(.+)", path)
        if role and role[1] == "dispatcher":
            first[role[2]] = value
        elif role and first.get(role[2]) == value:
            continue
        shown = "" if value is None and comment and "null" not in comment else f"`{json.dumps(value)}`"
        lines.append(f"| `{path}` | {shown.replace('|', chr(92) + '|')} | {comment} |")
    roles = ", ".join(role["name"] for role in stages()["roles"])
    head = README_HEAD.format(roles=roles, secrets="\n".join(f"- `{name}`" for name in secrets()))
    return head + "\n".join(lines) + "\n"


@cache
def rendered(case):
    """The manifests of a case, by template."""
    values = CASES[case]
    with Chart.load(CHART) as chart:
        given = yaml.safe_load(values.read_text(encoding="utf-8")) if values else {}
        return chart.render(given, name="echogen", namespace="pictures", is_install=True)


def snapshot(case):
    parts = []
    for template, text in sorted(rendered(case).items()):
        if template.endswith("/dashboards.yaml"):
            text = re.sub(r'(\.json): "(.*)"', lambda match: f"{match[1]}: {digest(match[2])}", text)
        if template.endswith(".txt"):
            text = "".join(f"# {line}".rstrip() + "\n" for line in text.strip().splitlines())
        if text.strip():
            # One file of several documents, which other tools can read.
            parts.append(f"# {template}\n---\n{text.strip().removeprefix('---').strip()}\n")
    return "\n".join(parts)


def digest(text):
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


def products():
    """Every generated file and its text; the copies first, because the chart is rendered with them."""
    made = {}
    for name, text in dashboards.written().items():
        made[ROOT / "deploy/grafana/dashboards" / name] = text
    # In the chart, the names of these labels are values.
    for name, text in dashboards.written("<namespace>", "<release>").items():
        made[CHART / "files/dashboards" / name] = text
    for name, text in mixin.rules(mixin.read(mixin.VALUES)).items():
        made[ROOT / "deploy/prometheus/rules" / name] = text
    for name, text in mixin.sources().items():
        made[CHART / "files/mixin/rules" / name] = text
    made[CHART / "files/mixin/values.yaml"] = mixin.VALUES.read_text(encoding="utf-8")
    made[CHART / "files/stages.json"] = (ROOT / "deploy/stages.json").read_text(encoding="utf-8")
    yield from made.items()
    schema = CHART / "values.schema.json"
    yield schema, values_schema(schema.read_text(encoding="utf-8"))
    yield CHART / "README.md", readme()
    for case in CASES:
        yield ROOT / "helm/snapshots" / f"{case}.yaml", snapshot(case)


def strangers(known):
    """Files in the folders of generated files that are not generated."""
    folders = {path.parent for path in known} - {CHART}
    return [path for folder in folders for path in folder.iterdir() if path.is_file() and path not in known]


def main():
    known = set()
    for path, text in products():
        known.add(path)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    for path in strangers(known):
        path.unlink()
        print(f"deleted {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
