"""Runs the image of EchoGen with the servers and the monitoring of compose.yaml, breaks one thing after another, and sees
which alerts arrive. Started by image-test.sh, in namespaces of its own.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

import compose
import faults
import load
import network
import servers
import watch
from containers import NOT_TRIED, PORT, Container
from image import Builder, Image

HEARTBEAT = ("EchogenWatchdog", "heartbeat")
# How much faster than life Prometheus and Alertmanager go.
FACTOR = 30
# A canary that is late: in a healthy installation it takes a second, here beside everything else. And more jobs within an hour,
# which is two minutes here, than the load and the canary make: an outage of a minute breaks the objective of the lane
# interactive, whose latency is not shorter here, and would cover with its alerts what comes after it.
THRESHOLDS = {"canary_slow_seconds": 5, "slo_least_jobs": 120}
# Seconds without an alert after which a fault is over.
SETTLED = 6
CANARY = ["canary", "--every", "3", "--limit", "30"]
ROLES = ["dispatcher", "segmenter", "encoder", "sampler", "gateway"]


class Installation:
    """Everything of compose.yaml, from the image."""

    def __init__(self, image, folder, weed):
        self.folder = folder
        folder.mkdir(parents=True)
        secrets = compose.made_secrets(folder)
        services = compose.services(secrets)
        hosts = network.name_servers(folder, services)
        self.servers = {
            "rabbitmq": servers.RabbitMq(folder / "rabbitmq", secrets["RABBITMQ_USER"], secrets["RABBITMQ_PASSWORD"]),
            "redis": servers.Redis(folder / "redis", services["redis"]),
            "s3": servers.SeaweedFs(folder / "s3", services["s3"], services["s3-setup"], weed),
        }
        services["canary"]["command"] = CANARY
        self.roles = {
            name: Container(name, services[name], image, folder / name, hosts, PORT + number)
            for number, name in enumerate([*ROLES, "canary"])
        }
        self.command = Container("echogen", services["echogen"], image, folder / "echogen", hosts)
        self.load = load.Load(secrets["ECHOGEN_GATEWAY_KEY"])
        targets = [f"{name}:{role.port}" for name, role in self.roles.items()]
        self.watch = watch.Watch(folder / "watch", targets, FACTOR, THRESHOLDS)

    def start(self):
        for server in self.servers.values():
            server.start()
        self.servers["s3"].set_up()
        for role in self.roles.values():
            role.start()
        for role in self.roles.values():
            role.wait_until_ready()


class Report:
    """What was seen, as a table, and whether all of it was right."""

    def __init__(self):
        self.failures, self.untried = [], []

    def row(self, *cells):
        print(" | ".join(cells), flush=True)

    def check(self, what, wrong):
        if wrong:
            self.failures.append(f"{what}: {wrong}")
        self.row("ok" if not wrong else "FAILED", what, str(wrong or ""))


def check_containers(report, installation):
    roles = installation.roles.values()
    wrong = {role.name: role.wrong_rights() for role in roles if role.wrong_rights()}
    report.check("every process runs unprivileged on a read-only root file system", wrong)
    ill = [role.name for role in roles if not role.is_healthy()]
    report.check("the image's health check says that every role is ready", ill)
    verified = installation.command.run("models", "verify", "mini")
    report.check("the bundle in the image is whole", "" if "mini" in verified else verified)
    job = ["submit", "--wait", "--subject", "/examples/subjects/robot.png", "--name", "robot", "--prompt", "a robot on a beach"]
    done = json.loads(installation.command.run(*job, "--json").splitlines()[-1])
    report.check("the job of compose.yaml's first lines completes", "" if "completed" in json.dumps(done) else done)


def quiet(installation, stay=()):
    """Whether nothing but the watchdog fires, and what may stay."""
    return set(installation.watch.active()) <= {HEARTBEAT[0], *stay}


def fair_weather(report, installation, seconds):
    since = time.monotonic()
    time.sleep(seconds)
    arrived = installation.watch.webhook.arrived(since)
    report.check(f"fair weather, {seconds} s: the watchdog arrives", "" if HEARTBEAT in arrived else "it does not")
    others = {key: round(value) for key, value in arrived.items() if key != HEARTBEAT}
    report.check(f"fair weather, {seconds} s: nothing else arrives", others)
    report.check("jobs complete meanwhile", "" if "completed" in installation.load.ended.values() else installation.load.ended)


def settle(installation, fault, limit):
    """Waits until the alerts have ended, and no other has followed for some seconds; the seconds until then."""
    began = quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < SETTLED and time.monotonic() - began < limit:
        time.sleep(0.5)
        if not quiet(installation, fault.stay):
            quiet_since = time.monotonic()
    return quiet_since - began


def shown(arrived):
    return ", ".join(f"{name} at {receiver} after {seconds:.0f} s" for (name, receiver), seconds in arrived.items())


def try_fault(report, installation, fault, limit):
    webhook = installation.watch.webhook
    wanted = {(name, receiver) for name, receiver in fault.arrives.items()}
    since = time.monotonic()
    fault.inject()
    while not wanted <= set(webhook.arrived(since)) and time.monotonic() - since < limit:
        time.sleep(0.2)
    silenced = sorted(name for name, state in installation.watch.active().items() if state == "suppressed")
    fault.repair()
    ended = settle(installation, fault, limit)
    arrived = {key: seconds for key, seconds in webhook.arrived(since).items() if key != HEARTBEAT}
    wrong = [f"{name} does not arrive at {receiver}" for name, receiver in wanted - set(arrived)]
    wrong += [f"{name} arrives at {where}" for name, where in arrived if name not in fault.may and (name, where) not in wanted]
    wrong += [] if quiet(installation, fault.stay) else [f"still fires after {limit} s: {sorted(installation.watch.active())}"]
    seen = [labels for name in fault.arrives for labels in webhook.labels(since, name)]
    for label, value in fault.labels.items():
        wrong += [] if any(each.get(label) == value for each in seen) else [f"no alert has {label}={value}"]
    wrong += [f"{each} lacks the installation" for each in seen if each.get("release") != "echogen"]
    report.check(fault.name, "; ".join(wrong))
    report.row("    ", shown(arrived), f"over {ended:.0f} s after its end", f"kept silent: {', '.join(silenced) or 'none'}")


def watchdog(report, installation):
    """Without Prometheus the heartbeat stops, which is what a dead man's switch waits for."""
    installation.watch.prometheus.stop()
    # Alertmanager takes an alert for over when Prometheus has not sent it for four evaluations or resends.
    time.sleep(30)
    since = time.monotonic()
    time.sleep(10)
    goes_on = HEARTBEAT in installation.watch.webhook.arrived(since)
    report.check("Prometheus is stopped: the heartbeat stops", "it goes on" if goes_on else "")
    installation.watch.start_prometheus()


def stop_all(report, installation):
    installation.load.drain(120)
    lost = {name: "not ended" for name in installation.load.waiting}
    lost |= {name: status for name, status in installation.load.ended.items() if status != "completed"}
    report.check(f"all {len(installation.load.ended)} jobs that were sent by HTTP have completed", lost)
    codes = {name: role.stop() for name, role in reversed(installation.roles.items())}
    report.check("SIGTERM ends every role with 0", {name: code for name, code in codes.items() if code != 0})


def run(arguments):
    report = Report()
    image = Image(Builder(arguments.folder / "images"))
    report.check("the image's user is 65532", "" if image.user == "65532:65532" else image.user)
    installation = Installation(image, arguments.folder / "run", arguments.weed)
    installation.start()
    check_containers(report, installation)
    installation.watch.start()
    installation.load.start()
    servers.wait(lambda: not installation.watch.down(), 60, lambda: f"not scraped: {installation.watch.down()}")
    time.sleep(30)
    fair_weather(report, installation, arguments.fair_seconds)
    tried = faults.all_faults(installation)
    report.untried = sorted(installation.watch.alerts() - {name for each in tried for name in each.arrives} - {HEARTBEAT[0]})
    for fault in tried:
        if any(each in fault.name for each in arguments.only.split(",")):
            try_fault(report, installation, fault, arguments.limit)
    if not arguments.only:
        watchdog(report, installation)
    stop_all(report, installation)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--weed", type=Path, required=True)
    parser.add_argument("--only", default="", help="only faults whose names contain one of these")
    parser.add_argument("--fair-seconds", type=int, default=45)
    parser.add_argument("--limit", type=int, default=150, help="seconds that an alert may take to arrive, and to end")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    report = run(arguments)
    print(f"\nnot tried, because it needs an engine: {NOT_TRIED}")
    print(f"alerts that nothing here causes: {', '.join(report.untried)}")
    print(f"{len(report.failures)} failed, {time.monotonic() - began:.0f} s")
    for each in report.failures:
        print(f"FAILED {each}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
