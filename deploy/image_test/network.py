"""A network of this machine alone, in which the names of compose.yaml's services lead to it."""

import fcntl
import socket
import struct
import subprocess

SET_FLAGS, UP_LOOPBACK_RUNNING = 0x8914, 0x49


def raise_loopback():
    """What `ip link set lo up` does; a new network namespace has no interface that is up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14s", b"lo", UP_LOOPBACK_RUNNING, b""))


def name_servers(folder, services):
    """Writes a hosts file, and mounts it in this mount namespace; containers get the same one."""
    raise_loopback()
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {' '.join(services)}\n", encoding="utf-8")
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    return hosts
