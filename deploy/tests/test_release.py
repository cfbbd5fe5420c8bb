"""The release: one version everywhere, samples that never change, and a workflow that tests and signs what it pushes."""

import re
import shutil

import pytest
import release
import yaml
from common import CHART, ROOT, load

WORKFLOW = ROOT / ".github/workflows/release.yaml"


def jobs():
    return load(WORKFLOW)["jobs"]


def steps(job):
    return "\n".join(str(step.get("run", step.get("uses"))) for step in jobs()[job]["steps"])


def test_every_file_names_the_same_version():
    found = release.versions()
    assert len(found) >= 8 and len(set(found.values())) == 1, found


def test_no_sample_of_a_released_version_has_changed():
    assert not release.changed_samples()
    assert len(release.frozen()) >= 20


def test_another_version_and_a_changed_sample_are_seen(tmp_path, monkeypatch):
    shutil.copytree(release.WIRE, tmp_path / "wire")
    monkeypatch.setattr(release, "WIRE", tmp_path / "wire")
    assert not release.changed_samples()
    (tmp_path / "wire/job.json").write_text("{}", encoding="utf-8")
    (tmp_path / "wire/event.json").unlink()
    (tmp_path / "wire/new.json").write_text("{}", encoding="utf-8")
    assert set(release.changed_samples()) == {"job.json", "event.json"}
    text = "\n".join(release.wrong("9.9.9"))
    wanted = ["Cargo.toml names", "appVersion names", "no section 9.9.9", "job.json has changed", "new.json is not frozen"]
    for part in wanted:
        assert part in text, part


def test_the_chart_tells_artifact_hub_what_it_is():
    about = load(CHART / "Chart.yaml")
    notes = about["annotations"]
    for image in yaml.safe_load(notes["artifacthub.io/images"]):
        assert set(image) == {"name", "image", "platforms"}
    platforms = {image["name"]: image["platforms"] for image in yaml.safe_load(notes["artifacthub.io/images"])}
    assert platforms == {"echogen": ["linux/amd64", "linux/arm64"], "echogen-cuda": ["linux/amd64"]}
    assert notes["artifacthub.io/license"] == notes["licenses"] == "MIT OR Apache-2.0"
    for link in yaml.safe_load(notes["artifacthub.io/links"]):
        assert link["url"].startswith("https://")
    assert notes["artifacthub.io/containsSecurityUpdates"] in ("true", "false")
    assert yaml.safe_load(notes["artifacthub.io/changes"])


def test_platforms_are_those_that_are_built():
    matrix = jobs()["images"]["strategy"]["matrix"]["include"]
    built = {(each["target"], each["platform"]) for each in matrix}
    assert built == {("cpu", "linux/amd64"), ("cpu", "linux/arm64"), ("cuda", "linux/amd64")}
    # Each is built on a machine of its own kind: an emulated compiler takes hours.
    assert all(("arm" in each["runner"]) == ("arm64" in each["platform"]) for each in matrix)


def test_nothing_is_pushed_before_it_is_checked():
    assert load(WORKFLOW)[True]["push"]["tags"] == ["v*"]
    assert jobs()["images"]["needs"] == "check" and jobs()["publish"]["needs"] == ["images", "image-test"]
    assert jobs()["chart"]["needs"] == "publish"
    assert "deploy/release.py check" in steps("check") and "deploy/check.sh" in steps("check")
    assert "--test wire" in steps("check"), "samples of the versions before are read"
    assert "deploy/image-test.sh" in steps("image-test")


def test_what_is_pushed_has_a_bill_of_materials_provenance_and_a_signature():
    assert "--sbom=true" in steps("images") and "--provenance=mode=max" in steps("images")
    for job in ("publish", "chart"):
        assert re.search(r"cosign sign --yes .*@", steps(job)), "a signature is of a digest, not of a tag"
        assert "cosign verify" in steps(job)
        assert jobs()[job]["permissions"] == {"contents": "read", "packages": "write", "id-token": "write"}
    assert "helm push" in steps("chart")


def test_the_released_chart_names_the_released_images():
    # What the workflow replaces has to be there: sed is content with nothing.
    for pattern, name in re.findall(r's\|(.*?)\|.*?" (helm/\S+)', steps("chart")):
        found = re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert len(found) == {"values.yaml": 1, "Chart.yaml": 2}[name.rsplit("/", 1)[1]], name
    assert steps("chart").count("sed --in-place") == 2


@pytest.mark.parametrize("job", ["check", "image-test"])
def test_jobs_that_only_check_may_write_nothing(job):
    assert "permissions" not in jobs()[job] and "secrets." not in steps(job)
