"""What is done to a healthy installation, and which alerts have to arrive for it, and where.

`arrives` are the alerts that have to come, with the receivers that they have to come to; `may` are others that the fault can
cause, depending on what was at work when it began. Any other alert fails the test.
"""

import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

PAGER, TICKETS = "pager", "tickets"


@dataclass
class Fault:
    name: str
    inject: Callable
    repair: Callable
    arrives: dict
    may: set = field(default_factory=set)
    # Labels that an alert of it has to have.
    labels: dict = field(default_factory=dict)
    # Alerts whose windows are too long to be waited for.
    stay: set = field(default_factory=set)


class Repeated:
    """Does something every so many seconds until it is stopped."""

    def __init__(self, seconds, action):
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(seconds, action), daemon=True)
        self.thread.start()

    def run(self, seconds, action):
        while not self.stopped.wait(seconds):
            action()

    def stop(self):
        self.stopped.set()
        self.thread.join()


def gone(role):
    def back():
        role.start()
        role.wait_until_ready()

    return role.kill, back


def away(server):
    return server.kill, server.start


def repeated(seconds, action):
    """A fault that is done again and again."""
    running = []
    return lambda: running.append(Repeated(seconds, action)), lambda: running.pop().stop()


def slow(roles, stopped, running):
    """Roles that have a part of their time only, as on a machine that is overcommitted: one after the other."""

    def turns(role):
        def turn():
            role.signal(signal.SIGSTOP)
            time.sleep(stopped)
            role.signal(signal.SIGCONT)

        return turn

    each = [repeated(running, turns(role)) for role in roles]

    def begin():
        for start, _ in each:
            start()
            time.sleep(stopped / len(each))

    return begin, lambda: [end() for _, end in each]


def all_faults(installation):
    """Every fault, in the order in which they are tried."""
    roles, servers, load = installation.roles, installation.servers, installation.load
    # From the last to the first, so that a job waits at each of them.
    stages = [roles[name] for name in ("sampler", "encoder", "segmenter")]
    intake = "echogen.dispatch.standard"
    numbers = iter(range(1_000_000))
    # What an outage leaves behind: attempts that failed, a canary that was lost, what waits.
    outage = {"EchogenRetries", "EchogenCanarySlow", "EchogenNotReady", "EchogenStageStuck"}
    outage |= {"EchogenInteractiveBacklog", "EchogenCacheCollapse"}

    def unreadable():
        servers["rabbitmq"].publish(intake, "this is no job")

    def impossible():
        subject = {"image": "data:image/png;base64,AAAA", "name": "mug"}
        job = {"id": f"impossible-{next(numbers)}", "subject": subject, "prompt": "a mug on a beach"}
        servers["rabbitmq"].publish(intake, json.dumps(job))

    return [
        Fault(
            "a client's keys are wrong",
            *repeated(0.2, load.refused),
            {"EchogenGatewayRefusals": TICKETS},
            # After ten of them the gateway looks at no more keys of that address for a while.
            labels={"reason": "rate-limited"},
        ),
        Fault("messages that are no jobs", *repeated(4, unreadable), {"EchogenDeadLetters": TICKETS}, {"EchogenRetries"}),
        Fault(
            "jobs whose pictures are broken",
            *repeated(0.5, impossible),
            # What a client sends wrong costs no error budget.
            {"EchogenJobErrors": PAGER},
            # Of the cache's requests, within half a minute here, many are then for what is not there.
            {"EchogenCacheCollapse"},
        ),
        Fault(
            "Redis is killed",
            *away(servers["redis"]),
            {"EchogenCacheErrors": TICKETS},
            {"EchogenLimitsUnread", "EchogenCacheCollapse"},
        ),
        Fault(
            "the sampler is killed",
            *gone(roles["sampler"]),
            # It is the only one: first its lanes have nobody, then its stage completes nothing.
            {"EchogenDown": TICKETS, "EchogenLaneUnserved": PAGER, "EchogenStageStuck": PAGER},
            {"EchogenCanaryFailing", "EchogenCanarySlow"},
            {"instance": "sampler:9467", "stage": "sampler"},
        ),
        Fault(
            "the dispatcher is killed",
            *gone(roles["dispatcher"]),
            {"EchogenDown": TICKETS, "EchogenAbsent": PAGER},
            {"EchogenCanaryFailing", "EchogenCanarySlow"},
            {"instance": "dispatcher:9464"},
        ),
        Fault(
            "the object store is killed",
            *away(servers["s3"]),
            {"EchogenObjectStoreErrors": PAGER},
            outage | {"EchogenCanaryFailing"},
        ),
        Fault(
            "RabbitMQ is killed",
            *away(servers["rabbitmq"]),
            {"EchogenCanaryFailing": PAGER},
            outage | {"EchogenGatewayErrors"},
        ),
        # Too short for a process to count as down.
        Fault("the canary is late", *slow(stages, 6, 0.7), {"EchogenCanarySlow": TICKETS}),
        Fault(
            "jobs expire",
            *repeated(0.2, load.send_late),
            {"EchogenErrorBudgetBurnsFast": PAGER},
            {"EchogenErrorBudgetBurnsSlowly"},
            {"lane": "standard", "slo": "availability"},
            {"EchogenErrorBudgetBurnsSlowly"},
        ),
    ]
