"""Prometheus and Alertmanager with our configuration, and a receiver that remembers what arrives.

The configuration is what compose.yaml mounts, but for four things: time runs faster (hurry.py), targets are listed instead of
looked up by DNS, exporters of servers' metrics are not scraped, which no rule needs, and each receiver gets a webhook.
"""

import json
import os
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hurry
import yaml
from compose import DEPLOY
from servers import Process, answers, wait

sys.path.insert(0, str(DEPLOY))
import mixin  # noqa: E402 -- the rules' generator lies beside this folder

PROMETHEUS, ALERTMANAGER = 9090, 9093
# Jobs whose targets do not run here.
NOT_SCRAPED = {"redis", "dcgm"}


class Webhook:
    """Receives notifications, and remembers each alert of each."""

    def __init__(self):
        self.seen, self.lock = [], threading.Lock()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802 -- the library's name
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                webhook.take(self.path.strip("/"), body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, receiver, alerts):
        with self.lock:
            for each in alerts:
                self.seen.append((time.monotonic(), receiver, each["status"], each["labels"]))

    def arrived(self, since, status="firing"):
        """What arrived since then: each alert's name with its receiver, and the seconds that it took."""
        found = {}
        with self.lock:
            for when, receiver, state, labels in self.seen:
                if when >= since and state == status:
                    found.setdefault((labels["alertname"], receiver), when - since)
        return found

    def labels(self, since, name):
        """The labels with which an alert arrived."""
        with self.lock:
            return [labels for when, _, state, labels in self.seen if when >= since and labels["alertname"] == name]


class Watch:
    """The two programs and the receiver."""

    def __init__(self, folder, targets, factor, values):
        self.folder, self.factor, self.webhook = folder, factor, Webhook()
        (folder / "rules").mkdir(parents=True)
        self.write_rules(values)
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(self.scraping(targets)), encoding="utf-8")
        (folder / "alertmanager.yaml").write_text(yaml.safe_dump(self.routing()), encoding="utf-8")
        self.prometheus, self.alertmanager = None, None

    def write_rules(self, changed):
        values = mixin.read(mixin.VALUES)
        values["thresholds"] |= changed
        for name, text in mixin.rules(values).items():
            made = hurry.rules(yaml.safe_load(text), self.factor)
            (self.folder / "rules" / name).write_text(yaml.safe_dump(made, width=10_000), encoding="utf-8")

    @staticmethod
    def scraping(targets):
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] not in NOT_SCRAPED]
        (ours,) = [job for job in config["scrape_configs"] if job["job_name"] == "echogen"]
        (looked_up,) = ours.pop("dns_sd_configs")
        assert set(looked_up["names"]) == {target.split(":")[0] for target in targets}, "other roles are scraped than run"
        ours["static_configs"] = [{"targets": targets}]
        return config

    def routing(self):
        config = yaml.safe_load((DEPLOY / "prometheus/alertmanager.yaml").read_text(encoding="utf-8"))
        for receiver in config["receivers"]:
            url = f"http://127.0.0.1:{self.webhook.server.server_port}/{receiver['name']}"
            receiver["webhook_configs"] = [{"url": url, "send_resolved": True}]
        return hurry.routes(config, self.factor)

    def start(self):
        data, log = self.folder / "alerts", self.folder / "alertmanager.txt"
        command = [os.environ["ALERTMANAGER"], f"--config.file={self.folder}/alertmanager.yaml", f"--storage.path={data}"]
        command += [f"--web.listen-address=127.0.0.1:{ALERTMANAGER}", "--cluster.listen-address="]
        self.alertmanager = Process(command, log)
        wait(lambda: answers(f"http://127.0.0.1:{ALERTMANAGER}/-/ready"), 60, self.alertmanager.end)
        self.start_prometheus()

    def start_prometheus(self):
        command = [os.environ["PROMETHEUS"], f"--config.file={self.folder}/prometheus.yaml"]
        command += [f"--storage.tsdb.path={self.folder}/data", f"--web.listen-address=127.0.0.1:{PROMETHEUS}"]
        # By default a value counts for five minutes after its last scrape, and alerts are sent anew each minute.
        command += [f"--query.lookback-delta={hurry.hurried('5m', self.factor)}", "--rules.alert.resend-delay=2s"]
        self.prometheus = Process(command, self.folder / "prometheus.txt")
        wait(lambda: answers(f"http://127.0.0.1:{PROMETHEUS}/-/ready"), 60, self.prometheus.end)

    def alerts(self):
        """The names of all alerts that there are."""
        files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (self.folder / "rules").glob("*.yaml")]
        rules = [rule for file in files for group in file["groups"] for rule in group["rules"]]
        return {rule["alert"] for rule in rules if "alert" in rule}

    def active(self):
        """The alerts that Alertmanager has, and whether another keeps each silent."""
        with urllib.request.urlopen(f"http://127.0.0.1:{ALERTMANAGER}/api/v2/alerts", timeout=10) as answer:
            return {each["labels"]["alertname"]: each["status"]["state"] for each in json.load(answer)}

    def down(self):
        """The targets that Prometheus cannot scrape."""
        with urllib.request.urlopen(f"http://127.0.0.1:{PROMETHEUS}/api/v1/targets", timeout=10) as answer:
            targets = json.load(answer)["data"]["activeTargets"]
        return [each["labels"]["instance"] for each in targets if each["health"] != "up"]
