"""The servers of compose.yaml as processes: RabbitMQ, Redis and SeaweedFS, at the ports that they have there.

They run in a network namespace of their own, so the ports are free, and compose's names of servers mean this machine.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path


def wait(condition, seconds, why):
    """Waits for a condition, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(why() if callable(why) else why)
        time.sleep(0.1)
    return found


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def answers(url, headers=None):
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=5).close()
    except OSError:
        return False
    return True


class Process:
    """A program in a process group of its own, with a log."""

    def __init__(self, command, log, environment=None):
        self.log = log
        with log.open("a", encoding="utf-8") as file:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def signal(self, number):
        """To the whole group; one that has ended is no error."""
        try:
            os.killpg(self.child.pid, number)
        except ProcessLookupError:
            pass

    def kill(self):
        self.signal(signal.SIGKILL)
        self.child.wait()

    def stop(self, seconds=30):
        self.child.terminate()
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def end(self):
        return "".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-12:])


class RabbitMq:
    """One node, with the user and the password of compose.yaml."""

    PORT, MANAGEMENT, METRICS = 5672, 15672, 15692

    def __init__(self, folder, user, password):
        self.folder, self.user, self.password = folder, user, password
        self.process, self.names = None, None
        for name in ("home", "mnesia", "log"):
            (folder / name).mkdir(parents=True)
        (folder / "home/.erlang.cookie").write_text("ECHOGENTESTS", encoding="utf-8")
        (folder / "home/.erlang.cookie").chmod(0o400)
        (folder / "enabled_plugins").write_text("[rabbitmq_management,rabbitmq_prometheus].\n", encoding="utf-8")
        (folder / "rabbitmq.conf").write_text("disk_free_limit.absolute = 50MB\n", encoding="utf-8")
        login = f"{{default_user, <<{erlang(user)}>>}}, {{default_pass, <<{erlang(password)}>>}}"
        (folder / "advanced.config").write_text(f"[{{rabbit, [{login}]}}].\n", encoding="utf-8")

    def environment(self):
        folder = self.folder
        return {
            "PATH": os.environ["PATH"],
            "HOME": f"{folder}/home",
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "n1@localhost",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
        }

    def start(self):
        # The packaged wrapper changes the user; the script below it does not.
        (script,) = Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server")
        if self.names is None:
            self.names = Process(["epmd", "-address", "127.0.0.1"], self.folder / "epmd.txt", self.environment())
        self.process = Process([script], self.folder / "console.txt", self.environment())
        overview = f"http://127.0.0.1:{self.MANAGEMENT}/api/overview"
        wait(lambda: answers(overview, self.login()), 180, self.process.end)

    def login(self):
        both = f"{self.user}:{self.password}".encode()
        return {"authorization": "Basic " + base64.b64encode(both).decode()}

    def kill(self):
        self.process.kill()
        wait(lambda: not listens(self.PORT), 30, "a killed broker still listens")

    def call(self, method, path, body):
        """A request to the HTTP API of management, and its answer."""
        headers = self.login() | {"content-type": "application/json"}
        url = f"http://127.0.0.1:{self.MANAGEMENT}/api/{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def declare(self, queue):
        """Declares a quorum queue."""
        self.call("PUT", f"queues/%2f/{queue}", {"durable": True, "arguments": {"x-queue-type": "quorum"}})

    def publish(self, queue, text):
        """Publishes a message to a queue."""
        message = {"properties": {"delivery_mode": 2}, "routing_key": queue, "payload": text, "payload_encoding": "string"}
        answer = self.call("POST", "exchanges/%2f/amq.default/publish", message)
        assert json.loads(answer)["routed"], f"there is no queue {queue}"


def erlang(text):
    """A string as Erlang reads it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Redis:
    """With the arguments of compose.yaml."""

    PORT = 6379

    def __init__(self, folder, service):
        self.folder, self.command, self.process = folder, service["command"], None
        folder.mkdir(parents=True)

    def start(self):
        self.process = Process([*self.command, "--dir", self.folder], self.folder / "log.txt")
        wait(lambda: listens(self.PORT), 30, self.process.end)

    def kill(self):
        self.process.kill()


class SeaweedFs:
    """With the arguments and the variables of compose.yaml, and its bucket set up as there."""

    PORT = 8333

    def __init__(self, folder, service, setup, program):
        self.folder, self.setup, self.process = folder, setup, None
        folder.mkdir(parents=True)
        (folder / "data").mkdir()
        self.command = [f"-dir={folder}/data" if each == "-dir=/data" else each for each in service["command"]]
        # Its own default is the gateway's port, which is another container's in compose.yaml.
        self.command += ["-volume.port=18080"]
        self.environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(folder)} | service["environment"]
        self.program = program

    def start(self):
        self.process = Process([self.program, *self.command], self.folder / "log.txt", self.environment)
        wait(lambda: answers(f"http://127.0.0.1:{self.PORT}/healthz"), 60, self.process.end)

    def set_up(self):
        """Runs compose's `s3-setup`; the cluster of one may still be choosing its leader."""
        command = [*self.setup["entrypoint"], *self.setup["command"]]

        def succeeds():
            return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

        wait(succeeds, 60, "there is no bucket")

    def kill(self):
        self.process.kill()


def missing_programs():
    """What has to be installed first."""
    found = {each: shutil.which(each) for each in ("redis-server", "epmd", "buildah", "unshare")}
    lacking = [name for name, path in found.items() if path is None]
    if not list(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server")):
        lacking.append("rabbitmq-server")
    return lacking
