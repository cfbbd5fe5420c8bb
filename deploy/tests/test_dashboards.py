"""The dashboards: each panel queries what exists, overlaps no other, and shows data."""

import json
import re
import urllib.parse
import urllib.request
from itertools import combinations

import dashboards
import promql_parser as promql
import pytest
from common import DEPLOY, ROOT, load
from queries import INSTALLATION, VARIABLES, charted_labels, check, filled_in, nodes
from recording import prometheus

FOLDER = DEPLOY / "grafana/dashboards"
BOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
PANELS = [(board, panel) for board, text in BOARDS.items() for panel in text["panels"]]
NAMES = [f"{board}: {panel['title']}" for board, panel in PANELS]


def test_there_are_eight():
    ours = {"objectives", "overview", "stage", "sampler", "cost"}
    assert set(BOARDS) == {f"echogen-{name}" for name in ours | {"rabbitmq", "redis", "devices"}}
    assert {f"{name}.json" for name in BOARDS} == set(dashboards.written())


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=NAMES)
def test_a_panel_queries_what_exists(board, panel):
    assert panel["targets"]
    for target in panel["targets"]:
        check(target["expr"])
        wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        unknown = wanted - charted_labels(target["expr"])
        assert not unknown, f"the legend names {unknown}, which {target['expr']} has not"


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_is_well_formed(board):
    text = BOARDS[board]
    assert text["uid"] == board and len(board) <= 40
    ids = [panel["id"] for panel in text["panels"]]
    assert len(ids) == len(set(ids))
    for one, other in combinations([panel["gridPos"] for panel in text["panels"]], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart or above, f"two panels overlap at {one} and {other}"
    defined = {variable["name"] for variable in text["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(text["panels"]))) - {"__rate_interval"}
    assert used <= defined, f"variables {used - defined} are not defined"


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=NAMES)
def test_a_panel_shows_the_chosen_installations(board, panel):
    for target in panel["targets"]:
        for node in nodes(promql.parse(filled_in(target["expr"]))):
            if isinstance(node, promql.VectorSelector):
                chosen = {matcher.name: matcher.value for matcher in node.matchers.matchers}
                assert INSTALLATION <= set(chosen), target["expr"]
    for variable in BOARDS[board]["templating"]["list"]:
        if variable["name"] in INSTALLATION:
            assert variable["query"]["query"].startswith("label_values(") and not variable["includeAll"]


def test_queries_are_tested_with_values_that_the_variables_have():
    for text in BOARDS.values():
        for variable in text["templating"]["list"]:
            value = VARIABLES.get("$" + variable["name"])
            fixed = [option["value"] for option in variable["options"]] if variable["type"] in ("custom", "textbox") else [value]
            assert variable["name"] == "source" or value and value in fixed


def test_grafana_finds_its_source_and_the_dashboards():
    source = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    assert source["type"] == "prometheus" and source["url"] == "http://prometheus:9090"
    folder = load(DEPLOY / "grafana/provisioning/dashboards/echogen.yaml")["providers"][0]["options"]["path"]
    compose = load(DEPLOY / "compose.yaml")
    assert f"./grafana/dashboards:{folder}:ro" in compose["services"]["grafana"]["volumes"]


def test_the_page_lists_every_board():
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \*(\w+)\* \|", page.split("\n## Dashboards\n")[1].split("\n## ")[0], re.MULTILINE)
    assert sorted(listed) == sorted(board["title"].removeprefix("EchoGen / ") for board in BOARDS.values())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prometheus with two hours of invented data."""
    with prometheus(tmp_path_factory.mktemp("prometheus")) as (address, now):
        yield address, now


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=NAMES)
def test_a_panel_shows_data(board, panel, server):
    address, now = server
    for target in panel["targets"]:
        question = urllib.parse.urlencode({"query": filled_in(target["expr"]), "time": now})
        with urllib.request.urlopen(f"{address}/api/v1/query?{question}", timeout=60) as answer:
            found = json.load(answer)["data"]["result"]
        assert found, f"nothing comes of {target['expr']}"
        assert all(value["value"][1] != "NaN" for value in found), f"not a number: {target['expr']}"
