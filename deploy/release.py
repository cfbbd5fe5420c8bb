#!/usr/bin/env python3
"""Checks that everything is ready for a release, and freezes the samples of its messages.

    deploy/release.py check 0.2.0      # every file names this version, and no frozen sample has changed
    deploy/release.py freeze           # adds the samples of this release to those that never change

A sample in tests/fixtures/wire/ is what a released version writes, so versions that follow have to read it for as long as
messages of that version may be in a queue or a store. `frozen.sha256` there, in the format of sha256sum, lists them.
"""

import argparse
import hashlib
import re
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
WIRE = ROOT / "tests/fixtures/wire"
FROZEN = WIRE / "frozen.sha256"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def frozen():
    """The samples that were released, with their sums."""
    lines = FROZEN.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def changed_samples():
    """Frozen samples that are gone or differ."""
    return [name for name, known in frozen().items() if not (WIRE / name).exists() or digest(WIRE / name) != known]


def freeze():
    names = sorted(path.name for path in WIRE.glob("*.json"))
    FROZEN.write_text("".join(f"{digest(WIRE / name)}  {name}\n" for name in names), encoding="utf-8")


def versions():
    """Every place that names the version, and what it says."""
    chart = yaml.safe_load((ROOT / "helm/echogen/Chart.yaml").read_text(encoding="utf-8"))
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    found = {
        "Cargo.toml": cargo["workspace"]["package"]["version"],
        "helm/echogen/Chart.yaml, version": chart["version"],
        "helm/echogen/Chart.yaml, appVersion": chart["appVersion"],
    }
    for name in ("compose.yaml", "compose.gpu.yaml", "Dockerfile"):
        for image in re.findall(r"\bechogen:(\d+\.\d+\.\d+)", (ROOT / "deploy" / name).read_text(encoding="utf-8")):
            found[f"deploy/{name}"] = image if found.get(f"deploy/{name}", image) == image else "several"
    for image in yaml.safe_load(chart["annotations"]["artifacthub.io/images"]):
        found[f"helm/echogen/Chart.yaml, image {image['name']}"] = image["image"].rsplit(":", 1)[1].removesuffix("-cuda")
    return found


def wrong(version):
    """What keeps this version from being released."""
    found = [f"{place} names {each}" for place, each in versions().items() if each != version]
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)}( |$)", text, re.MULTILINE):
        found.append(f"CHANGELOG.md has no section {version}")
    found += [f"{name} has changed, and versions that are in use write it as it was" for name in changed_samples()]
    found += [f"{path.name} is not frozen" for path in WIRE.glob("*.json") if path.name not in frozen()]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("version")
    commands.add_parser("freeze")
    arguments = parser.parse_args()
    if arguments.command == "freeze":
        freeze()
        return 0
    found = wrong(arguments.version.removeprefix("v"))
    for each in found:
        print(each, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
