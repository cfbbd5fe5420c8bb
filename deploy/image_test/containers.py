"""The services of compose.yaml that run our image, as containers without an engine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from compose import DEPLOY
from servers import Process, answers, wait

# What an engine would give it, and this test does not.
NOT_TRIED = "cgroup limits, the default seccomp profile, a network of its own for each container"
PORT = 9464


class Container:
    """One container of a service."""

    def __init__(self, name, service, image, folder, hosts, port=None):
        self.name, self.service, self.image, self.folder, self.hosts = name, service, image, folder, hosts
        self.process, self.port = None, port
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = image.environment | {key: str(value) for key, value in service.get("environment", {}).items()}
        if port:
            # All share one network, so each has a port of its own.
            self.environment["ECHOGEN_TELEMETRY_LISTEN"] = f"0.0.0.0:{port}"

    def specification(self, name, command):
        mounts = [{"source": str(self.hosts), "target": "/etc/hosts"}]
        for each in self.service.get("volumes", []):
            source, target, *_ = each.split(":")
            # A named volume is only for published weights, and empty here.
            if source.startswith("."):
                mounts.append({"source": str((DEPLOY / source).resolve()), "target": target})
        return {
            "root": str(self.image.root),
            "mounts": mounts,
            "user": self.service["user"],
            "folder": self.image.folder,
            "command": command,
            "environment": self.environment,
            "pid_file": str(self.folder / f"{name}.pid"),
        }

    def launch(self, name, command):
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(self.specification(name, command)), encoding="utf-8")
        return [sys.executable, str(Path(__file__).with_name("container.py")), str(path)]

    def start(self):
        (self.folder / "run.pid").unlink(missing_ok=True)
        command = [*self.image.entrypoint, *self.service["command"]]
        self.process = Process(self.launch("run", command), self.folder / "log.txt")
        wait((self.folder / "run.pid").exists, 20, self.process.end)

    def run(self, *arguments):
        """Runs a command to its end and returns what it printed."""
        launch = self.launch("command", [*self.image.entrypoint, *arguments])
        done = subprocess.run(launch, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"echogen {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    @property
    def pid(self):
        return int((self.folder / "run.pid").read_text(encoding="utf-8"))

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        """As the kernel does it when memory is short."""
        self.signal(signal.SIGKILL)
        self.process.child.wait()

    def stop(self):
        """As `docker stop` does it; the exit code, or nothing if it had to be killed."""
        return self.process.stop(60)

    def is_ready(self):
        return answers(f"http://127.0.0.1:{self.port}/readyz")

    def wait_until_ready(self):
        def ready_or_ended():
            assert self.process.child.poll() is None, f"{self.name} has ended:\n{self.process.end()}"
            return self.is_ready()

        wait(ready_or_ended, 180, lambda: f"{self.name} is not ready:\n{self.process.end()}")

    def is_healthy(self):
        """What the image's own health check says; `CMD` stands before its command."""
        command = self.service["healthcheck"]["test"]
        assert command == self.image.health, "compose.yaml and the Dockerfile have different health checks"
        return subprocess.run(self.launch("health", command[1:]), capture_output=True, check=False).returncode == 0

    def wrong_rights(self):
        """What the process may do although it should not, as the kernel says."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines()
        status = dict(line.split(":", 1) for line in lines)
        user, group = self.image.user.split(":")
        wanted = {"Uid": [user] * 4, "Gid": [group] * 4, "Groups": [], "NoNewPrivs": ["1"]}
        wanted |= {name: ["0" * 16] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        wrong = [f"{name} is {status[name].strip()}" for name, value in wanted.items() if status[name].split() != value]
        mounts = Path(f"/proc/{self.pid}/mountinfo").read_text(encoding="utf-8").splitlines()
        root = str(self.image.root)
        # The last mount at the root is the one that is seen.
        (*_, seen) = [line.split()[5] for line in mounts if line.split()[4] in ("/", root)]
        return wrong + ([] if "ro" in seen.split(",") else [f"the root file system is mounted {seen}"])
