"""Reads compose.yaml as docker compose does, so that what is tested is what it says."""

import re
import secrets
import subprocess
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parents[1]
VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::([?-])([^}]*))?\}")
# A password may be anything; these are the characters that addresses, YAML, JSON, shells and Compose itself treat specially.
SPECIAL = "p@ss:w/rd%2f?#&=+ '\"$ ${X} \\ {}[]<>|;!*"


def read_secrets(path):
    """The variables of a `.env` file: as they are, or within single quotes with backslashes before quotes."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found[name] = value[1:-1].replace("\\'", "'") if value.startswith("'") else value
    return found


def made_secrets(folder):
    """What secrets.sh makes, with passwords that contain every special character."""
    for name in ("secrets.sh", ".env.example"):
        (folder / name).write_bytes((DEPLOY / name).read_bytes())
    subprocess.run(["sh", folder / "secrets.sh"], check=True, capture_output=True)
    made = read_secrets(folder / ".env")
    assert all(made[name] for name in made if name != "ECHOGEN_MODEL_HUB_TOKEN"), "secrets.sh has left one empty"
    for name in ("RABBITMQ_PASSWORD", "S3_SECRET_ACCESS_KEY"):
        made[name] = SPECIAL + secrets.token_hex(8)
    return made


def filled(value, variables):
    """A value with its variables. One that is missing is an error, as it is for compose."""
    if isinstance(value, dict):
        return {name: filled(each, variables) for name, each in value.items()}
    if isinstance(value, list):
        return [filled(each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def one(found):
        name, kind, rest = found.groups()
        if name is None:
            return "$"
        given = variables.get(name, "")
        if given or kind is None:
            return given
        if kind == "?":
            raise KeyError(f"{name} is not set: {rest}")
        return rest

    return VARIABLE.sub(one, value)


def services(variables):
    """The services of compose.yaml."""
    return filled(yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"], variables)
