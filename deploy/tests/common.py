"""What the checks share: paths, what the program and the list of metrics define, and running a tool."""

import json
import os
import re
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = ROOT / "helm/echogen"
PORT = 9464
# Written by a test of crates/protocol from its list of stages and roles.
LIST = json.loads((DEPLOY / "stages.json").read_text(encoding="utf-8"))
# Each role with its stages; the first is the one that the role is named after and scaled by.
ROLES = {role["name"]: role["stages"] for role in LIST["roles"]}
# Each stage with its queues.
STAGES = {stage["name"]: stage["queues"] for stage in LIST["stages"]}


def run(*command, **rest):
    """Runs a tool and returns what it wrote; a failure shows it."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **rest)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def tool(name):
    """A program of Prometheus's package, which check.sh has looked for."""
    path = os.environ.get(name.upper())
    assert path, f"{name.upper()} is not set; start the checks with deploy/check.sh"
    return path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def in_venv(name):
    """A program of the virtual environment that runs the checks."""
    return Path(sys.executable).parent / name


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@cache
def settings_schema():
    """The JSON Schema of echogen.toml, written by a test of crates/service from the types of the configuration."""
    return json.loads((DEPLOY / "echogen.schema.json").read_text(encoding="utf-8"))


@cache
def program_variables():
    """Every environment variable that the program reads, from the page of the configuration."""
    found = {"ECHOGEN_CONFIG"}
    for line in (ROOT / "docs/configuration.md").read_text(encoding="utf-8").splitlines():
        cells = line.split(" | ")
        if re.match(r"\| `[a-z_]+\.[a-z_.]+`$", cells[0]):
            found |= set(re.findall(r"`([A-Z][A-Z0-9_]+)`", cells[1]))
    assert len(found) > 50, "docs/configuration.md has no tables of settings"
    return found


@cache
def program_commands():
    """The program's commands, from the committed text of `echogen --help`."""
    (path,) = (ROOT / "crates/cli").rglob("snapshots/*__help-.snap")
    listed = re.search(r"^Commands:\n((?: +\S.*\n)+)", path.read_text(encoding="utf-8"), re.MULTILINE)[1]
    return set(re.findall(r"^  ([a-z-]+)", listed, re.MULTILINE))


class MetricsList:
    """The closed list of metrics, read from its page."""

    def __init__(self, text):
        self.kinds, self.labels, self.values = {}, {}, {}
        for line in text.splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            words = [re.findall(r"`([^`]+)`", cell) for cell in cells]
            if not words[0] or not words[0][0].startswith("echogen_"):
                continue
            name = words[0][0]
            if len(cells) > 2 and cells[1] in ("counter", "gauge", "histogram"):
                self.kinds[name] = cells[1]
                self.labels[name] = set(words[2])
            # Values alone; a label whose values are not known beforehand is described in words.
            elif len(cells) == 3 and words[1] and re.fullmatch(r"`[^`]+`(, `[^`]+`)*", cells[2]):
                self.values[name, words[1][0]] = set(words[2])

    def metric(self, series):
        """The metric that a series belongs to, and the labels that its kind adds."""
        for suffix, extra in {"_bucket": {"le"}, "_sum": set(), "_count": set()}.items():
            name = series.removesuffix(suffix)
            if series.endswith(suffix) and self.kinds.get(name) == "histogram":
                return name, extra
        assert self.kinds.get(series) in ("counter", "gauge"), f"{series} is not in the metrics list"
        return series, set()


@cache
def metrics_list():
    found = MetricsList((ROOT / "docs/metrics.md").read_text(encoding="utf-8"))
    assert len(found.kinds) > 20, "docs/metrics.md has no table of metrics"
    return found


def check_object(each, version):
    """Fails unless Kubernetes of this version takes an object; kinds that are not its own have schemas here."""
    schema = DEPLOY / f"tests/schemas/{each['kind'].lower()}.json"
    if schema.exists():
        jsonschema.validate(each, json.loads(schema.read_text(encoding="utf-8")))
    else:
        kubernetes_validate.validate(each, version, strict=True)


def images(compose):
    """The images of a compose file."""
    return {service["image"] for service in compose["services"].values() if "image" in service}
