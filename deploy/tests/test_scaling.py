"""Autoscaling: the query that the chart gives KEDA, and what comes of it under load.

`deploy/check.sh -s tests/test_scaling.py` prints the seconds waited and the device hours, beside the ideal.
"""

import json
import random

import pytest
from common import CHART, load, run, tool
from scaler import LOADS, Load, Pool, Seen, Settings, bursts, ready_messages_only, shared, simulate, simulate_pools, spread, wanted
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


def query(pool=None, pools=()):
    given = {"autoscaling": {"enabled": True}, "roles": {"sampler": {"pools": list(pools)}}}
    (found,) = [
        each["spec"]["triggers"]
        for each in given_objects(given)
        if each["kind"] == "ScaledObject" and each["metadata"]["name"] == "-".join(["echogen-sampler", *([pool] if pool else [])])
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


def asked(tmp_path, given, expected, expression=None):
    """Fails unless Prometheus answers the chart's query so."""
    samples = [] if expected is None else [{"labels": "{}", "value": expected}]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"{value}x5"} for name, value in given.items()],
        "promql_expr_test": [{"expr": expression or query(), "eval_time": "3m", "exp_samples": samples}],
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


# Large devices for people, small ones for bulk work, and both for the rest.
POOLS = [
    {"name": "large", "lanes": ["interactive", "standard"], "autoscaling": {"min": 1, "max": 4, "secondsPerPod": 100}},
    {"name": "small", "lanes": ["standard", "bulk"], "autoscaling": {"min": 0, "max": 12, "secondsPerPod": 600}},
]


def series_of_pools(waiting, asleep=()):
    """The samples while so many tasks of each lane wait; a task takes a large device 5 seconds, and a small one 20."""
    made = {f'echogen_consuming{{{HERE}, stage="dispatcher", instance="d"}}': 1}
    for lane, tasks in ({"interactive": 0, "standard": 0, "bulk": 0, "all": 0} | waiting).items():
        made[f'echogen_queue_messages{{{HERE}, stage="sampler", lane="{lane}", instance="d"}}'] = tasks
    for pool in POOLS:
        if pool["name"] in asleep:
            continue
        labels = f'{HERE}, stage="sampler", pool="{pool["name"]}", instance="{pool["name"]}"'
        made |= {f"echogen_ready{{{labels}}}": 1, f"echogen_consuming{{{labels}}}": 1}
        made[f"echogen_tasks_in_progress{{{labels}}}"] = 16
        for lane in [*pool["lanes"], "all"]:
            seconds = waiting.get(lane, 0) * (5 if pool["name"] == "large" else 20)
            made[f'echogen_work_waiting_seconds{{{labels}, lane="{lane}"}}'] = seconds
    return made


@pytest.mark.parametrize(
    ("waiting", "large", "small"),
    [
        ({"interactive": 200}, 1 + 200 * 5 / 100, 1),
        ({"bulk": 300}, 1, 1 + 300 * 20 / 600),
        # Of a lane that both serve each counts its part, so that together they are as many as one pool would be.
        ({"standard": 80}, 1 + 80 * 5 * 0.25 / 100, 1 + 80 * 20 * 0.75 / 600),
        ({"interactive": 40, "standard": 80, "bulk": 300}, 1 + 2 + 1, 1 + 2 + 10),
        ({"all": 40}, 1 + 40 * 5 * 0.25 / 100, 1 + 40 * 20 * 0.75 / 600),
    ],
)
def test_a_pool_counts_what_it_serves(waiting, large, small, tmp_path):
    for pool, expected in (("large", large), ("small", small)):
        asked(tmp_path, series_of_pools(waiting), expected, query(pool, POOLS))


def test_a_pool_that_sleeps_is_woken_by_its_lanes_alone(tmp_path):
    messages = OWN["messagesPerPod"]
    asleep = query("small", POOLS)
    asked(tmp_path, series_of_pools({"interactive": 200}, ["small"]), 0, asleep)
    asked(tmp_path, series_of_pools({"bulk": 200, "standard": 40}, ["small"]), (200 + 40 * 0.75) / messages, asleep)


def pools():
    kept = {"cooldown": OWN["cooldownSeconds"]}
    large = Settings(least=1, most=4, seconds_per_pod=100, **kept)
    small = Settings(least=0, most=12, seconds_per_pod=600, **kept)
    return shared({"large": Pool(large, ["interactive", "standard"]), "small": Pool(small, ["standard", "bulk"], slower=4)})


def test_bulk_work_wakes_the_pool_that_serves_it_and_no_other():
    nothing = Load([], seconds=5)
    found = simulate_pools({"interactive": Load([600], seconds=5), "standard": nothing, "bulk": bursts()}, pools())
    assert found["large"].most == 1 and len(found["large"].waits) == 1 and found["large"].mean_wait <= 5
    assert 1 < found["small"].most <= 12 and found["small"].hours < 5 * found["small"].ideal_hours


def test_people_wait_for_no_bulk_work_although_both_are_busy():
    chance = random.Random(3)
    people = Load(spread(0.3, 0, 7_200, chance), seconds=5)
    bulk = Load(spread(0.4, 0, 7_200, chance), seconds=5)
    apart = simulate_pools({"interactive": people, "standard": Load([], seconds=5), "bulk": bulk}, pools())
    # Two pods of a large device do what these people ask for; starting the second takes ten minutes.
    assert apart["large"].most <= 4 and len(apart["large"].waits) == len(people.arrivals)
    assert len(apart["small"].waits) == len(bulk.arrivals)
    assert apart["large"].p95_wait < 600 < apart["small"].p95_wait


def test_a_lane_of_two_pools_is_worked_off_by_both():
    found = simulate_pools({"interactive": Load([], seconds=5), "standard": bursts(), "bulk": Load([], seconds=5)}, pools())
    assert len(found["large"].waits) > 0 and len(found["small"].waits) > 0
    assert len(found["large"].waits) + len(found["small"].waits) == len(bursts().arrivals)


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
