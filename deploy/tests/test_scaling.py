"""Autoscaling: the query that the chart gives KEDA, and what comes of it under load.

`deploy/check.sh -s tests/test_scaling.py` prints the seconds waited and the device hours, beside the ideal.
"""

import json

import pytest
from common import CHART, load, run, tool
from scaler import LOADS, Seen, Settings, ready_messages_only, simulate, wanted
from test_chart import given_objects

OWN = load(CHART / "values.yaml")["roles"]["sampler"]["autoscaling"]
SETTINGS = Settings(
    seconds_per_pod=OWN["secondsPerPod"],
    messages_per_pod=OWN["messagesPerPod"],
    tasks_per_pod=OWN["tasksPerPod"],
    cooldown=OWN["cooldownSeconds"],
    most=OWN["max"],
)
# What the chart asked for before it counted what is in hand.
BEFORE = Settings(seconds_per_pod=120, messages_per_pod=200, cooldown=600, most=16)
HERE = 'namespace="pictures", release="echogen"'


def query():
    (found,) = [
        each["spec"]["triggers"]
        for each in given_objects({"autoscaling": {"enabled": True}})
        if each["kind"] == "ScaledObject" and each["metadata"]["name"] == "echogen-sampler"
    ]
    (trigger,) = found
    assert trigger["metadata"]["threshold"] == "1" and trigger["metadata"]["ignoreNullValues"] == "false"
    return trigger["metadata"]["query"]


def series(seen, broker=True):
    """The samples of an installation in this state, with another one beside it."""
    consumes = 1 if broker else 0
    made = {f'echogen_consuming{{{HERE}, stage="dispatcher", instance="d"}}': consumes}
    made[f'echogen_queue_messages{{{HERE}, stage="sampler", lane="standard", instance="d"}}'] = seen.waiting
    for number, tasks in enumerate(seen.in_hand):
        labels = f'{HERE}, stage="sampler", instance="s{number}"'
        made |= {f"echogen_ready{{{labels}}}": 1, f"echogen_consuming{{{labels}}}": consumes}
        made[f"echogen_tasks_in_progress{{{labels}}}"] = tasks
        made[f'echogen_work_waiting_seconds{{{HERE}, stage="sampler", lane="standard", instance="s{number}"}}'] = seen.waiting_seconds
    for number in range(seen.loading):
        made[f'echogen_ready{{{HERE}, stage="sampler", instance="l{number}"}}'] = 0
    other = HERE.replace("pictures", "staging")
    made[f'echogen_tasks_in_progress{{{other}, stage="sampler", instance="x"}}'] = 400
    made[f'echogen_work_waiting_seconds{{{other}, stage="sampler", lane="standard", instance="x"}}'] = 90_000
    return made


def asked(tmp_path, given, expected):
    """Fails unless Prometheus answers the chart's query so."""
    samples = [] if expected is None else [{"labels": "{}", "value": expected}]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"{value}x5"} for name, value in given.items()],
        "promql_expr_test": [{"expr": query(), "eval_time": "3m", "exp_samples": samples}],
    }
    path = tmp_path / "test.yaml"
    path.write_text(json.dumps({"rule_files": [], "tests": [case]}), encoding="utf-8")
    run(tool("promtool"), "test", "rules", path)


STATES = {
    "nothing to do": Seen(0, 0, [0, 0], 0),
    "waiting": Seen(3_000, 600, [0], 0),
    "in hand, and none waits": Seen(0, 0, [32, 32, 4], 0),
    "waiting, and some load": Seen(900, 180, [16], 2),
    "more load than would be needed": Seen(300, 60, [8], 4),
}


@pytest.mark.parametrize("seen", STATES.values(), ids=STATES)
def test_the_charts_query_is_what_the_simulation_asks(seen, tmp_path):
    asked(tmp_path, series(seen), wanted(seen, SETTINGS))


def test_while_all_sleep_the_queues_length_counts(tmp_path):
    asked(tmp_path, series(Seen(0, 100, [], 0)), 100 / SETTINGS.messages_per_pod)
    asked(tmp_path, series(Seen(0, 0, [], 0)), 0)


def test_values_from_before_the_broker_was_lost_do_not_count(tmp_path):
    # No answer: KEDA then keeps the number of pods.
    asked(tmp_path, series(Seen(90_000, 9_000, [32], 0), broker=False), None)


@pytest.fixture(scope="module")
def reports():
    return {name: (simulate(load(), BEFORE, ready_messages_only), simulate(load(), SETTINGS)) for name, load in LOADS.items()}


@pytest.mark.parametrize("name", LOADS)
def test_what_is_waited_and_what_is_paid(name, reports):
    before, now = reports[name]
    for label, each in (("ready messages only", before), ("this chart", now)):
        print(
            f"\n{name:10} {label:20} waited: mean {each.mean_wait:6.0f} s, p95 {each.p95_wait:6.0f} s; device hours "
            f"{each.hours:6.1f}, ideal {each.ideal_hours:5.1f}; done again {each.repeated_seconds / 3600:5.1f} h; pods {each.most}",
            end="",
        )
    # A burst waits for the start of pods in any case; a few per cent more are worth a quarter of the price.
    assert now.mean_wait <= before.mean_wait * 1.06
    assert now.hours <= before.hours


def test_what_a_pod_has_in_hand_keeps_it(reports):
    before, now = reports["long jobs"]
    assert now.repeated_seconds == 0 < before.repeated_seconds
    assert now.hours < 4 * now.ideal_hours < before.hours


def test_a_single_task_wakes_one_pod_and_lets_it_sleep_again(reports):
    _, now = reports["one task"]
    assert now.most == 1 and now.mean_wait <= 600 + SETTINGS.polling + 5
    assert now.hours * 3600 <= 600 + 5 + SETTINGS.cooldown + 60


def test_steady_work_pays_for_little_more_than_itself(reports):
    _, now = reports["nights"]
    assert now.hours < 1.3 * now.ideal_hours
