"""The networks of a pod have as many threads as it has CPUs: by themselves they would have one for each core of its node."""

import tomllib

import pytest
from test_chart import given_objects


def threads(role, given):
    """The setting in the file of a role, of an installation with these values."""
    for each in given_objects(given):
        if each["kind"] == "ConfigMap" and f"{role}.toml" in each["data"]:
            return tomllib.loads(each["data"][f"{role}.toml"])["model"].get("threads")
    raise AssertionError(f"there is no {role}.toml")


def of_sampler(requests, limits, **rest):
    return {"roles": {"sampler": {"resources": {"requests": requests, "limits": limits}} | rest}}


@pytest.mark.parametrize(
    ("requests", "limits", "wanted"),
    [
        ({"cpu": "2"}, {"cpu": "4"}, 4),
        ({"cpu": 2}, {}, 2),
        ({"cpu": "250m"}, {}, 1),
        ({"cpu": "2500m"}, {}, 3),
        ({"cpu": "1.5"}, {}, 2),
    ],
)
def test_they_follow_from_the_pods_cpus(requests, limits, wanted):
    assert threads("sampler", of_sampler(requests, limits)) == wanted


def test_they_are_limited_by_default():
    assert threads("sampler", {}) == 2 and threads("segmenter", {}) == 1 and threads("dispatcher", {}) == 1


def test_a_setting_counts_before_them():
    assert threads("sampler", {"config": {"model": {"threads": 7}}}) == 7
    assert threads("sampler", of_sampler({"cpu": "2"}, {}, config={"model": {"threads": 5}})) == 5
    assert threads("sampler", of_sampler({"cpu": "6"}, {}, gpu={"count": 1})) == 6
