"""Runs one container of a built image without an engine: as the image's user, on a read-only root file system, without
capabilities, in process, mount and IPC namespaces of its own.

    container.py SPECIFICATION.json

It is what `docker run --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp --network host` does, except
for cgroups and the seccomp profile. Signals are passed on, and the exit code is the program's.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, NEW_NAMES, NEW_IPC, NEW_PROCESSES = 0x00020000, 0x04000000, 0x08000000, 0x20000000
READ_ONLY, NO_SUID, NO_DEVICES, NO_PROGRAMS, REMOUNT = 1, 2, 4, 8, 32
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
SET_DEATH_SIGNAL, DROP_CAPABILITY, NO_NEW_PRIVILEGES = 1, 24, 38
DEVICES = ["null", "zero", "full", "random", "urandom"]


def call(name, *arguments):
    """A system call of the C library, whose failure is an error."""
    if getattr(LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def mount(source, target, kind=None, flags=0, options=None):
    encoded = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    call("mount", *encoded, ctypes.c_ulong(flags), None if options is None else options.encode())


def place(root, target, folder):
    """Where something is mounted; engines, too, make it if the image lacks it."""
    path = root / target.lstrip("/")
    if folder:
        path.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return path


def fill(root, mounts):
    """Mounts everything below the root, which is then read-only."""
    mount(None, "/", flags=RECURSIVE | PRIVATE)
    mount(root, root, flags=BIND)
    for each in mounts:
        path = place(root, each["target"], Path(each["source"]).is_dir())
        mount(each["source"], path, flags=BIND)
        mount(None, path, flags=BIND | REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES)
    mount("proc", place(root, "proc", True), "proc", NO_SUID | NO_DEVICES | NO_PROGRAMS)
    mount("tmpfs", place(root, "tmp", True), "tmpfs", NO_SUID | NO_DEVICES, "mode=1777")
    devices = place(root, "dev", True)
    mount("tmpfs", devices, "tmpfs", NO_SUID, "mode=755")
    for name in DEVICES:
        (devices / name).touch()
        mount(f"/dev/{name}", devices / name, flags=BIND)
    (devices / "fd").symlink_to("/proc/self/fd")
    mount(None, root, flags=BIND | REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES)


def drop(user, group):
    """Gives up every right."""
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="utf-8")) + 1):
        call("prctl", DROP_CAPABILITY, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def become(specification):
    """The first process of the container."""
    call("prctl", SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    root = Path(specification["root"])
    fill(root, specification["mounts"])
    user, group = (int(part) for part in specification["user"].split(":"))
    os.chroot(root)
    os.chdir(specification["folder"] or "/")
    drop(user, group)
    os.closerange(3, 1024)
    command = specification["command"]
    os.execve(command[0], command, specification["environment"])


def main():
    specification = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    call("prctl", SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    call("unshare", NEW_MOUNTS | NEW_NAMES | NEW_IPC | NEW_PROCESSES)
    child = os.fork()
    if child == 0:
        become(specification)
    Path(specification["pid_file"]).write_text(str(child), encoding="utf-8")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: os.kill(child, received))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
