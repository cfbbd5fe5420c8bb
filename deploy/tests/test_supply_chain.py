"""Dependencies, workflows, and the plain form of every file here."""

import re
import tomllib

import pytest
from common import DEPLOY, ROOT, in_venv, load, run

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
LOCK = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))
DENY = tomllib.loads((ROOT / "deny.toml").read_text(encoding="utf-8"))


def versions():
    found = {}
    for package in LOCK["package"]:
        found.setdefault(package["name"], []).append(package["version"])
    return found


def test_everything_comes_from_the_one_registry():
    sources = {package["source"] for package in LOCK["package"] if "source" in package}
    assert len(sources) == 1 and sources.pop().endswith("crates.io-index")
    ours = [package["name"] for package in LOCK["package"] if "source" not in package]
    assert ours and all(name.startswith("echogen-") for name in ours)
    assert all("checksum" in package for package in LOCK["package"] if "source" in package)


def test_there_is_one_tls_stack():
    banned = {each["crate"] for each in DENY["bans"]["deny"]}
    assert {"openssl-sys", "native-tls", "aws-lc-sys", "aws-lc-rs"} <= banned
    assert not banned & set(versions())
    assert "ring" in versions() and versions()["rustls"] == [versions()["rustls"][0]]


def test_every_second_version_of_a_crate_is_accounted_for():
    assert DENY["bans"]["multiple-versions"] == "deny"
    skipped = {}
    for each in DENY["bans"]["skip"]:
        assert each["reason"]
        name, _, version = each["crate"].partition("@")
        skipped.setdefault(name, set()).add(version)
    for name, found in versions().items():
        if len(found) > 1:
            rest = [version for version in found if not matches(version, skipped.get(name, set()))]
            assert len(rest) <= 1, f"{name} is there as {found}: unify it, or say in deny.toml why not"
    for name, wanted in skipped.items():
        for version in wanted:
            hits = [each for each in versions().get(name, []) if matches(each, {version})]
            assert hits and len(versions()[name]) > 1, f"deny.toml skips {name} {version}, and needs no longer"


def matches(version, wanted):
    """Whether a requirement such as `0.8` names this version."""
    return any(version == each or version.startswith(each + ".") for each in wanted)


def test_advisories_are_never_waved_through_without_a_reason():
    assert DENY["advisories"]["yanked"] == "deny"
    assert all(each["reason"] for each in DENY["advisories"].get("ignore", []))
    assert DENY["licenses"]["allow"] and DENY["sources"]["unknown-git"] == "deny"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_well_formed(path):
    run(in_venv("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", path)
    run(in_venv("check-jsonschema"), "--builtin-schema", "custom.github-workflows-require-timeout", path)
    text = path.read_text(encoding="utf-8")
    for action in re.findall(r"uses: (\S+)", text):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{action} is not pinned by its commit"
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}


def test_a_workflow_runs_the_test_command():
    texts = [path.read_text(encoding="utf-8") for path in WORKFLOWS]
    for command in (".ci/run", "deploy/check.sh", "deploy/image-test.sh --bases pull"):
        assert any(f"run: {command}" in text for text in texts), command


def test_workflows_open_no_door():
    run(in_venv("zizmor"), "--offline", "--no-progress", ROOT / ".github")


def test_dependabot_is_well_formed():
    run(in_venv("check-jsonschema"), "--builtin-schema", "vendor.dependabot", ROOT / ".github/dependabot.yaml")
    for update in load(ROOT / ".github/dependabot.yaml")["updates"]:
        for folder in update.get("directories", [update.get("directory")]):
            assert (ROOT / folder.strip("/")).is_dir()


def test_yaml_is_tidy():
    files = [*DEPLOY.rglob("*.yaml"), *(ROOT / ".github").rglob("*.yaml"), *ROOT.glob("helm/echogen/*.yaml")]
    files += [*ROOT.glob("helm/echogen/ci/*.yaml"), *ROOT.glob("helm/echogen/files/**/*.yaml")]
    assert len(files) > 12
    run(in_venv("yamllint"), "--strict", "-c", DEPLOY / "yamllint.yaml", *files)


def test_scripts_are_tidy():
    scripts = [DEPLOY / "healthcheck", ROOT / ".ci/run", ROOT / "tests/newer-servers.sh", ROOT / "docs/build.sh"]
    scripts += [*sorted(DEPLOY.glob("*.sh")), *sorted(ROOT.glob("examples/*.sh"))]
    run(in_venv("shellcheck"), "--external-sources", *scripts, cwd=ROOT)


def test_links_lead_somewhere():
    pages = [ROOT / "docs/operations.md", ROOT / "docs/upgrades.md", ROOT / "helm/README.md", ROOT / "helm/echogen/README.md"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
