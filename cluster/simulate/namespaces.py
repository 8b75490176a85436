"""Make several hosts out of this machine: network namespaces with a name and an address each, for tests.

    with namespaces.network(2) as hosts:
        subprocess.run(hosts[0].command("mpiexec", "--host", "a:1,b:1", ...))

Each host has a network of its own, and its processes reach the others only through TCP. All hosts share the files, the
processors and the clock of this machine. This needs Linux, root, and `ip` of the package iproute2.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

PREFIX = "bnn"  # of the names of namespaces. The number of the process that made them follows.
_SECONDS = 20  # limit for each command that makes or removes a part of the network
_BURST_SECONDS = 1.5e-3  # what a sender hands to the network at once; few long packets are less work than many
_GRACE = 3.0  # seconds from SIGTERM to SIGKILL for what still runs in a namespace
# The host's name is changed in a UTS namespace of the command, so this machine keeps its own.
_RENAME = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"'
_AGENT = """#!/bin/sh
# Start a command on another host, as ssh does: the first word is the host, the others are read by a shell.
host=$1
shift
exec ip netns exec "$host" unshare --uts sh -c '{rename}' "$host" sh -c "$*"
"""


@dataclass(frozen=True)
class Host:
    """One host: a network namespace.

    Attributes:
      name: of the namespace and of the host. The other hosts resolve it to the address.
      address: IPv4 address.
      agent: path of a script that takes the place of ssh. Give it to Open MPI in $OMPI_MCA_plm_rsh_agent.
    """

    name: str
    address: str
    agent: str

    def command(self, *words: str) -> list[str]:
        """Return the words that run a command on this host, with this process's environment and folder."""
        return ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", _RENAME, self.name, *words]


def missing() -> str | None:
    """Return why this machine cannot make hosts, or None if it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces exist only on Linux"
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            return f"{program} is missing, which the package {package} brings"
    name = f"{PREFIX}{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=_SECONDS)
    if tried.returncode:
        return f"this machine refuses to make a network namespace: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return None


def _ip(*words: str) -> None:
    """Run `ip`, and raise an error with its own words if it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)} failed: {done.stderr.strip()}")


@contextlib.contextmanager
def network(size: int, delay: float = 0.0, rate: float | None = None) -> Iterator[list[Host]]:
    """Make hosts that reach each other, and remove them afterwards with every process that still runs on them.

    Without delay and rate, a bridge joins the hosts. Otherwise a process passes their packets on as late as the delay
    and the rate say, like netem, which not every kernel has (see `link`).

    Args:
      size: number of hosts, at most 200.
      delay: seconds that a packet needs from any host to any other one.
      rate: bits a second that a host can send, and the same that it can receive at the same time. None is no limit.

    Yields:
      The hosts.

    Raises:
      OSError: the network cannot be made. Call `missing` before.
    """
    _remove_left_over()
    stem = f"{PREFIX}{os.getpid()}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bnn-hosts-")))
        agent = folder / "agent"
        agent.write_text(_AGENT.format(rename=_RENAME))
        agent.chmod(0o755)
        hosts = [Host(f"{stem}-{index}", f"10.99.0.{index + 1}", str(agent)) for index in range(size)]
        for name in [*(host.name for host in hosts), *([] if delay or rate else [f"{stem}-switch"])]:
            stack.callback(_remove, name)
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        table = "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in hosts)
        for host in hosts:
            # `ip netns exec` lays the files of this folder over those of /etc.
            own = Path("/etc/netns", host.name)
            own.mkdir(parents=True)
            (own / "hosts").write_text(table)
        if delay or rate:
            stack.enter_context(_forwarded(hosts, delay, rate))
        else:
            _bridged(hosts, f"{stem}-switch")
        yield hosts


def _bridged(hosts: list[Host], switch: str) -> None:
    """Join the hosts by virtual cables to one switch, in a namespace of its own."""
    _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
    _ip("-n", switch, "link", "set", "bridge", "up")
    for index, host in enumerate(hosts):
        port = f"port{index}"
        _ip("link", "add", "eth0", "netns", host.name, "type", "veth", "peer", "name", port, "netns", switch)
        _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", host.name, "link", "set", "eth0", "up")


@contextlib.contextmanager
def _forwarded(hosts: list[Host], delay: float, rate: float | None) -> Iterator[None]:
    """Join the hosts by a process that delays their packets, while the context lasts."""
    words = [sys.executable, "-m", "cluster.simulate.link", str(delay), str(rate or 0), *(host.name for host in hosts)]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if not process.stdout or process.stdout.readline() != "ready\n":
            raise OSError("the process that passes the packets on did not start; its error is above")
        for host in hosts:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up", "txqueuelen", "10000")
            # Windows that were opened stay open, as on clusters, and no window depends on a guess of the rate.
            settings = "echo reno >tcp_congestion_control && echo 0 >tcp_slow_start_after_idle"
            subprocess.run(
                host.command("sh", "-c", f"cd /proc/sys/net/ipv4 && {settings}"), check=True, timeout=_SECONDS
            )
            if rate:
                # Without this queue a sender's acknowledgements would wait behind all that it wants to send.
                burst = round(min(max(rate / 8 * _BURST_SECONDS, 3200), 80_000))
                _ip("-n", host.name, "link", "set", "eth0", "gso_max_size", str(min(burst - 200, 65536)))
                queue = f"qdisc add dev eth0 root tbf rate {rate:.0f}bit burst {burst} latency 20s"
                subprocess.run(["tc", "-n", host.name, *queue.split()], check=True, timeout=_SECONDS)
        yield
    finally:
        process.kill()
        process.communicate()


def _remove(name: str) -> None:
    """Remove a namespace, its files in /etc, and the processes in it. Nothing of it need exist."""
    end = time.monotonic() + _GRACE
    while True:
        found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, timeout=_SECONDS)
        processes = [int(word) for word in found.stdout.split()] if not found.returncode else []
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM if time.monotonic() < end else signal.SIGKILL)
        if not processes or time.monotonic() > 2 * _GRACE + end:
            break
        time.sleep(0.1)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=_SECONDS)
    shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)


def _remove_left_over() -> None:
    """Remove the namespaces of processes that were killed before they could do it."""
    for path in Path("/run/netns").glob(f"{PREFIX}*-*"):
        number = path.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdigit() and not Path("/proc", number).exists():
            _remove(path.name)
