"""What the checks share: where things lie, what the program and the metrics list know, and running a tool."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = ROOT / "helm/echogen"
ROLES = ["dispatcher", "segmenter", "encoder", "sampler"]
PORT = 9464


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


def in_venv(name):
    """A program of the virtual environment that runs the checks."""
    return Path(sys.executable).parent / name


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@cache
def pending():
    """Commands and variables that the program is about to get."""
    return load(DEPLOY / "tests/pending.yaml") if (DEPLOY / "tests/pending.yaml").exists() else {}


@cache
def program_text():
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "crates/cli/src").rglob("*.rs"))


@cache
def program_variables():
    """Every environment variable that is an option of the program."""
    known = set(re.findall(r'env = "([A-Z0-9_]+)"', program_text()))
    return known | set(pending().get("variables", []))


@cache
def program_commands():
    """The program's commands, as it spells them."""
    text = (ROOT / "crates/cli/src/arguments.rs").read_text(encoding="utf-8")
    body = text[text.index("pub(crate) enum Command {") :]
    body = body[: body.index("\n}\n")]
    names = re.findall(r"^    ([A-Z]\w+)[ ({]", body, re.MULTILINE)
    known = {re.sub(r"(?<!^)([A-Z])", r"-\1", name).lower() for name in names}
    assert "dispatcher" in known and "dead-letters" in known, f"no commands found in arguments.rs: {known}"
    return known | set(pending().get("commands", []))


class MetricsList:
    """The closed list of metrics, read from its documentation."""

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
            elif len(cells) == 3 and words[1] and words[2]:
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
    real = ROOT / "docs/metrics.md"
    path = real if real.exists() else DEPLOY / "tests/metrics.md"
    found = MetricsList(path.read_text(encoding="utf-8"))
    assert len(found.kinds) > 20, f"{path} has no table of metrics"
    return found


def images(compose):
    """The images of a compose file."""
    return {service["image"] for service in compose["services"].values() if "image" in service}
