#!/usr/bin/env python3
"""Writes everything that is made from something else, so that nothing is kept in step by hand.

    deploy/check.sh --update

| made | from |
|---|---|
| grafana/dashboards/*.json | grafana/dashboards.py |
| helm/echogen/files/ | prometheus/rules/, grafana/dashboards/ |
| helm/echogen/README.md | helm/echogen/values.yaml |
| helm/snapshots/*.yaml | the chart, rendered with the values of helm/echogen/ci/ |

`deploy/check.sh` without `--update` fails where one differs.
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

CASES = {"default": None} | {
    path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))
}
README_HEAD = """\
# EchoGen's Helm chart

One Deployment for each role (dispatcher, segmenter, encoder, sampler) on a RabbitMQ, a Redis and an object store of your
own. [docs/operations.md](../../docs/operations.md) says how many pods, how to upgrade, and what each alert means.

```console
$ kubectl create namespace pictures
$ kubectl --namespace pictures create secret generic echogen \\
    --from-literal=ECHOGEN_AMQP_URL='amqps://USER:PASSWORD@HOST:5671/%2f' \\
    --from-literal=ECHOGEN_REDIS_URL='rediss://:PASSWORD@HOST:6379/0' \\
    --from-literal=ECHOGEN_S3_ACCESS_KEY_ID=KEY --from-literal=ECHOGEN_S3_SECRET_ACCESS_KEY=SECRET
$ helm install echogen helm/echogen --namespace pictures --set config.store=s3://BUCKET --set image.repository=IMAGE
$ helm test echogen --namespace pictures
```

What is there by default: four Deployments, a canary, PodDisruptionBudgets, NetworkPolicies, a ServiceAccount without
rights. Pods run without root, without capabilities, on a read-only root, with the default seccomp profile. What has to be
switched on, since it needs something in the cluster: `autoscaling` (KEDA), `metrics.*` (Prometheus operator, Grafana's
sidecar), `models.volume` (a volume for published weights), `roles.*.gpu` (GPUs).

Examples that the tests render: [minimal](ci/minimal-values.yaml), [everything](ci/full-values.yaml),
[a bundle of your own](ci/own-bundle-values.yaml).

## Values

`roles.segmenter`, `roles.encoder` and `roles.sampler` have the keys of `roles.dispatcher`; only where their default
differs are they listed.

| value | default | meaning |
|---|---|---|
"""


def rows(text):
    """Each value of values.yaml, in order: path, default, and the comment above it."""
    values = yaml.safe_load(text)
    found, path, comment = [], [], []
    for line in text.splitlines()[1:]:
        if match := re.fullmatch(r"\s*# (.*)", line):
            comment.append(match[1])
            continue
        if match := re.match(r"( *)([A-Za-z0-9]+):(.*)", line):
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
        shown = "" if value is None and comment and "otherwise" not in comment else f"`{json.dumps(value)}`"
        lines.append(f"| `{path}` | {shown.replace('|', chr(92) + '|')} | {comment} |")
    return README_HEAD + "\n".join(lines) + "\n"


@cache
def rendered(case):
    """The manifests of a case, by template; the dashboards, which are data, as sums."""
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
            # One file, so that other tools can read it whole.
            parts.append(f"# {template}\n---\n{text.strip().removeprefix('---').strip()}\n")
    return "\n".join(parts)


def digest(text):
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


def products():
    """Every file that is made, with what it should say; the copies first, since the chart is rendered with them."""
    made = {}
    for name, text in dashboards.written().items():
        made[ROOT / "deploy/grafana/dashboards" / name] = text
        made[CHART / "files/dashboards" / name] = text
    for rules in sorted((ROOT / "deploy/prometheus/rules").glob("*.yaml")):
        made[CHART / "files/rules" / rules.name] = rules.read_text(encoding="utf-8")
    yield from made.items()
    yield CHART / "README.md", readme()
    for case in CASES:
        yield ROOT / "helm/snapshots" / f"{case}.yaml", snapshot(case)


def strangers(known):
    """Files in folders of products that nothing makes."""
    folders = {path.parent for path in known} - {CHART}
    return [path for folder in folders for path in folder.iterdir() if path not in known]


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
