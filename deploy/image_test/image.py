"""Builds the CPU image of the Dockerfile with buildah, and opens its root file system.

Nothing of the Dockerfile is changed or left out. What may differ are its base images, which are build arguments:

- the program may be built already: then the base `RUST_IMAGE` has a `cargo` that copies it, and the build stage takes minutes
  less;
- `CPU_IMAGE` may be made by debootstrap, where the registry of the pinned one cannot be reached.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "localhost/echogen:test"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
CARGO = """\
#!/bin/sh
# Stands in for the compiler: the program is built already.
set -eu
install -D /built/echogen target/release/echogen
"""


class Builder:
    """buildah with a store of its own, without a daemon and without an engine."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder / "buildah.log"
        store = [f"--root={folder}/storage", f"--runroot={folder}/run", "--storage-driver=vfs"]
        self.command = [shutil.which("buildah"), *store]

    def run(self, *arguments):
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ buildah {' '.join(map(str, arguments))}\n")
            log.flush()
            environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}
            command = [*self.command, *map(str, arguments)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, check=False)
            log.write(done.stdout)
        if done.returncode != 0:
            last = "".join(self.log.read_text(encoding="utf-8").splitlines(keepends=True)[-15:])
            raise RuntimeError(f"buildah has failed; all of it is in {self.log}:\n{last}")
        return done.stdout.strip()

    def has(self, image):
        return image in self.run("images", "--format", "{{.Name}}:{{.Tag}}").split()

    def small(self, name, text, files):
        """An image of a few lines, from a context of a few files."""
        context = self.folder / "context"
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir()
        (context / "Dockerfile").write_text(text, encoding="utf-8")
        for target, source in files.items():
            if isinstance(source, Path):
                shutil.copy2(source, context / target)
            else:
                (context / target).write_text(source, encoding="utf-8")
                (context / target).chmod(0o755)
        self.run("build", "--quiet", "--tag", name, context)
        shutil.rmtree(context)

    def base(self, system):
        """The image of a system that debootstrap has unpacked."""
        name = "localhost/echogen-base:test"
        if not self.has(name):
            archive = self.folder / "base.tar"
            left_out = [f"--exclude=./{each}" for each in ("var/cache/apt", "var/lib/apt/lists", "proc", "sys", "dev")]
            subprocess.run(["tar", "-C", system, *left_out, "-cf", archive, "."], check=True)
            self.small(name, "FROM scratch\nADD base.tar /\n", {"base.tar": archive})
            archive.unlink()
        return name

    def pinned(self, name):
        """Pulls an image that the Dockerfile pins; returns its whole name, for which no search list is needed."""
        text = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
        image = re.search(rf"^ARG {name}=(.+)$", text, re.MULTILINE)[1]
        whole = f"docker.io/{image if '/' in image else 'library/' + image}"
        self.run("pull", "--quiet", "--policy=missing", whole)
        return whole

    def compiler(self, base, program):
        """The image that has the program in place of a compiler."""
        name = "localhost/echogen-built:test"
        text = f"FROM {base}\nCOPY cargo /usr/local/bin/\nCOPY echogen /built/\nCOPY {AUTHORITIES.name} {AUTHORITIES.parent}/\n"
        # The compiler's image has the authorities, too.
        self.small(name, text, {"cargo": CARGO, "echogen": program, AUTHORITIES.name: AUTHORITIES})
        return name

    def build(self, **bases):
        """The CPU target of the Dockerfile; images in Docker's format keep the health check."""
        given = [f"--build-arg={name}={image}" for name, image in bases.items()]
        file = ROOT / "deploy/Dockerfile"
        self.run("build", "--format=docker", f"--file={file}", "--target=cpu", *given, "--tag", NAME, ROOT)
        return Image(self)


class Image:
    """What an engine reads from an image, and its root file system."""

    def __init__(self, builder):
        self.name = NAME
        inspected = json.loads(builder.run("inspect", "--type=image", NAME))
        config = inspected["Docker"]["config"]
        self.user = config["User"]
        self.folder = config["WorkingDir"]
        self.environment = dict(each.split("=", 1) for each in config["Env"])
        self.entrypoint, self.command = config["Entrypoint"], config["Cmd"]
        self.health = config["Healthcheck"]["Test"]
        self.labels = config["Labels"]
        for old in builder.run("containers", "--quiet").split():
            builder.run("rm", old)
        self.container = builder.run("from", "--pull-never", NAME)
        self.root = Path(builder.run("mount", self.container))
