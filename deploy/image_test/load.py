"""Jobs by HTTP, as clients send them: one every few seconds, each watched to its end."""

import base64
import datetime
import itertools
import json
import threading
import time
import urllib.error
import urllib.request

from compose import DEPLOY

GATEWAY = "http://127.0.0.1:8080"
EVERY = 3
ENDED = {"completed", "failed", "cancelled", "expired"}


def picture():
    data = (DEPLOY.parent / "examples/subjects/mug.png").read_bytes()
    return "data:image/png;base64," + base64.b64encode(data).decode()


class Load:
    """Sends jobs until it is stopped, and counts what becomes of them."""

    def __init__(self, key):
        self.key, self.subject = key, picture()
        self.numbers = itertools.count(1)
        self.waiting, self.ended, self.unsent = {}, {}, 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def start(self):
        self.thread.start()

    def ask(self, path, body=None, key=None):
        headers = {"authorization": f"Bearer {key or self.key}", "content-type": "application/json"}
        request = urllib.request.Request(GATEWAY + path, body and json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def run(self):
        while not self.stopped.wait(EVERY):
            self.send()
            self.look()

    def send(self):
        # The id makes sending again safe, so what was not answered is sent until it is.
        name = f"load-{next(self.numbers)}"
        subject = {"image": self.subject, "name": "mug"}
        self.waiting[name] = {"id": name, "subject": subject, "prompt": "a mug on a beach", "lane": "standard"}

    def send_late(self):
        """A job whose deadline passes before its picture can be made."""
        deadline = datetime.datetime.now(datetime.UTC) + datetime.timedelta(milliseconds=200)
        subject = {"image": self.subject, "name": "mug"}
        job = {"subject": subject, "prompt": "a mug on a beach", "deadline": deadline.isoformat()}
        try:
            self.ask("/v1/jobs", job)
        except OSError:
            self.unsent += 1

    def look(self):
        for name, job in list(self.waiting.items()):
            try:
                if job is not None:
                    self.ask("/v1/jobs", job)
                    self.waiting[name] = None
                status = self.ask(f"/v1/jobs/{name}")["status"]
            except (OSError, ValueError):
                # A gateway without its servers, or none: the next round asks again.
                self.unsent += 1
                return
            if status in ENDED:
                self.ended[name] = status
                del self.waiting[name]

    def drain(self, seconds):
        """Stops sending, and waits for the end of every job."""
        self.stopped.set()
        self.thread.join()
        deadline = time.monotonic() + seconds
        while self.waiting and time.monotonic() < deadline:
            self.look()
            time.sleep(0.5)

    def refused(self):
        """A request with a wrong key, which has to be refused."""
        try:
            self.ask("/v1/limits", key="eg_ABCDEFGH_" + "A" * 43)
        except urllib.error.HTTPError as error:
            assert error.code in (401, 429), error
        except OSError:
            # On a busy machine one may take too long; the next one follows.
            self.unsent += 1
