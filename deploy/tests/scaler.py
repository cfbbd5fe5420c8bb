"""KEDA and the HorizontalPodAutoscaler, simulated, with pods that take minutes to start and take tasks in hand.

The scaler's rules are those of the documentation: KEDA asks every `polling` seconds and starts the first pod when the signal is
above 0, or the last one ends after `cooldown` seconds without; between that, the autoscaler sets the number of pods to the
signal divided by the threshold, within its policies. What a pod does is simple on purpose: it takes up to `hand` tasks out of
the queue, and works them off one after another.
"""

import math
import random
from collections import deque
from dataclasses import dataclass, field

STEP = 5


@dataclass
class Settings:
    """As the chart's `roles.*.autoscaling`."""

    least: int = 0
    most: int = 16
    seconds_per_pod: float = 300
    messages_per_pod: float = 200
    tasks_per_pod: int = 16
    cooldown: int = 600
    polling: int = 15


@dataclass
class Load:
    """When tasks arrive, and what they and the pods take."""

    arrivals: list
    seconds: float
    start: int = 600
    hand: int = 32
    # Running tasks that need longer after SIGTERM are done again from the beginning.
    grace: int = 180


@dataclass
class Pod:
    ready_at: int
    # Each task: when it arrived, and what of it is left.
    tasks: deque = field(default_factory=deque)


@dataclass
class Seen:
    """What Prometheus knows."""

    waiting_seconds: float
    waiting: int
    in_hand: list
    loading: int


@dataclass
class Report:
    waits: list
    pod_seconds: float
    work_seconds: float
    repeated_seconds: float
    most: int

    @property
    def mean_wait(self):
        return sum(self.waits) / len(self.waits)

    @property
    def p95_wait(self):
        return sorted(self.waits)[int(0.95 * len(self.waits))]

    @property
    def hours(self):
        return self.pod_seconds / 3600

    @property
    def ideal_hours(self):
        return self.work_seconds / 3600


def ready_messages_only(seen, settings):
    """What the chart asked for before: tasks in hand and pods that load do not count."""
    return max(seen.waiting_seconds / settings.seconds_per_pod, seen.waiting / settings.messages_per_pod)


def wanted(seen, settings):
    """The chart's query: waiting, in hand and loading."""
    busy = sum(min(1, tasks / settings.tasks_per_pod) for tasks in seen.in_hand)
    return busy + max(seen.waiting_seconds / settings.seconds_per_pod, seen.loading)


@dataclass
class Pool:
    """A Deployment of pods and what it serves: lanes in order, how much longer its pods take, and its part of each lane's work."""

    settings: Settings
    lanes: list
    slower: float = 1
    parts: dict = field(default_factory=dict)


def shared(pools):
    """The pools, each with its part of its lanes: its `most` among that of all that serve the lane, as the chart reckons."""
    for pool in pools.values():
        for lane in pool.lanes:
            total = sum(each.settings.most for each in pools.values() if lane in each.lanes)
            pool.parts[lane] = pool.settings.most / total
    return pools


class Cluster:
    """The pods of one pool, at the queues of all lanes."""

    def __init__(self, load, pool, queues, signal):
        self.load, self.pool, self.settings, self.signal = load, pool, pool.settings, signal
        self.seconds = load.seconds * pool.slower
        self.queues, self.pods = queues, [Pod(0) for _ in range(pool.settings.least)]
        self.advice, self.sizes = deque(), deque()
        self.active_at = -math.inf
        self.report = Report([], 0, 0, 0, 0)

    def next(self):
        """The lane that the next task comes from, if any waits."""
        return next((lane for lane in self.pool.lanes if self.queues[lane]), None)

    def work(self, now):
        for pod in self.pods:
            self.report.pod_seconds += STEP
            left = STEP if pod.ready_at <= now else 0
            while pod.ready_at <= now and len(pod.tasks) < self.load.hand and (lane := self.next()):
                pod.tasks.append([self.queues[lane].popleft(), self.seconds, lane])
            while left > 0 and pod.tasks:
                task = pod.tasks[0]
                if task[1] == self.seconds:
                    self.report.waits.append(max(0, now - task[0]))
                    self.report.work_seconds += self.seconds
                done = min(left, task[1])
                task[1] -= done
                left -= done
                if task[1] <= 0:
                    pod.tasks.popleft()

    def stop(self, pods, count):
        """Those that are not ready go first, then the youngest; what they cannot end within their time is requeued."""
        for _ in range(count):
            pod = max(pods, key=lambda each: each.ready_at)
            pods.remove(pod)
            left = self.load.grace
            for arrived, rest, lane in pod.tasks:
                left -= rest
                if left < 0:
                    self.report.repeated_seconds += self.seconds - rest
                    self.queues[lane].appendleft(arrived)

    def seen(self, now):
        ready = [pod for pod in self.pods if pod.ready_at <= now]
        waiting = sum(len(self.queues[lane]) * self.pool.parts[lane] for lane in self.pool.lanes)
        return Seen(
            waiting_seconds=waiting * self.seconds,
            waiting=waiting,
            in_hand=[len(pod.tasks) for pod in ready],
            loading=len(self.pods) - len(ready),
        )

    def scale(self, now):
        settings, current = self.settings, len(self.pods)
        signal = self.signal(self.seen(now), settings)
        if signal > 0:
            self.active_at = now
        if current == 0:
            target = 1 if signal > 0 else 0
        elif settings.least == 0 and now - self.active_at >= settings.cooldown:
            target = 0
        else:
            target = self.within_policies(now, current, signal)
        target = max(settings.least, min(settings.most, target))
        self.pods += [Pod(now + self.load.start) for _ in range(target - current)]
        self.stop(self.pods, max(0, current - target))
        self.sizes.append((now, target))

    def within_policies(self, now, current, signal):
        # Within a tenth, the autoscaler does nothing.
        desired = current if abs(signal / current - 1) <= 0.1 else math.ceil(signal)
        self.advice.append((now, desired))
        while self.advice[0][0] <= now - self.settings.cooldown:
            self.advice.popleft()
        while self.sizes and self.sizes[0][0] <= now - 60:
            self.sizes.popleft()
        before = self.sizes[0][1] if self.sizes else current
        if desired > current:
            return max(1, min(desired, max(before * 2, before + 2)))
        steadied = max(advice for _, advice in self.advice)
        return max(1, min(current, max(steadied, before - math.ceil(before * 0.25))))


def simulate(load, settings, signal=wanted):
    """Runs until everything is done."""
    pools = shared({"": Pool(settings, ["standard"])})
    return simulate_pools({"standard": load}, pools, signal)[""]


def simulate_pools(loads, pools, signal=wanted):
    """The same for several pools, with the load of each lane; tasks of all lanes take the same time."""
    queues = {lane: deque() for lane in loads}
    load = next(iter(loads.values()))
    clusters = {name: Cluster(load, pool, queues, signal) for name, pool in pools.items()}
    arrivals, now = {lane: deque(sorted(each.arrivals)) for lane, each in loads.items()}, 0
    while any(arrivals.values()) or any(queues.values()) or any(pod.tasks for each in clusters.values() for pod in each.pods):
        for lane, coming in arrivals.items():
            while coming and coming[0] <= now:
                queues[lane].append(coming.popleft())
        for cluster in clusters.values():
            cluster.work(now)
            if now % cluster.settings.polling == 0:
                cluster.scale(now)
            cluster.report.most = max(cluster.report.most, len(cluster.pods))
        now += STEP
        assert now < 10 * 86_400, "the tasks never end"
    # What is left is paid for until it is idle long enough.
    for cluster in clusters.values():
        cluster.report.pod_seconds += len(cluster.pods) * cluster.settings.cooldown
    return {name: cluster.report for name, cluster in clusters.items()}


def spread(rate, since, until, chance):
    """Arrivals at `rate` a second, as they come from many clients."""
    found, now = [], since
    while True:
        now += chance.expovariate(rate)
        if now >= until:
            return found
        found.append(now)


def bursts():
    """Six hours of little, with three bursts of several hundred tasks within minutes."""
    chance = random.Random(1)
    found = spread(0.02, 0, 21_600, chance)
    for begin in (3_600, 9_000, 16_200):
        found += spread(2, begin, begin + 300, chance)
    return Load(found, seconds=5)


def long_jobs():
    """Twenty large jobs of seven minutes each, all of which a single pod takes in hand."""
    return Load([60 + 5 * number for number in range(20)], seconds=420)


def nights():
    """Two days of work at five pods' pace, with nights without any."""
    chance = random.Random(2)
    return Load(spread(1, 28_800, 64_800, chance) + spread(1, 115_200, 151_200, chance), seconds=5)


def one_at_night():
    """A single task: it waits for the start and no longer, and the pod goes again."""
    return Load([600], seconds=5)


LOADS = {"bursts": bursts, "long jobs": long_jobs, "nights": nights, "one task": one_at_night}
