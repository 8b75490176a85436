"""Hosts of this machine that reach each other by ssh, as the nodes of a job do."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cluster.simulate import namespaces

PORT = 22
_SSHD_FOLDER = Path("/run/sshd")  # which sshd wants to exist
_SECONDS = 30  # until a host answers


def missing() -> str | None:
    """Return why this machine cannot make hosts with ssh between them, or None if it can."""
    for program in ("sshd", "ssh", "ssh-keygen"):
        if _find(program) is None:
            return f"{program} is missing, which the packages openssh-server and openssh-client bring"
    return namespaces.missing()


def _find(program):
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


@contextlib.contextmanager
def network(folder, size=2):
    """Make hosts on each of which an ssh server runs, and set $PATH so that `ssh` uses keys made for this test.

    Args:
      folder: an empty folder for keys and settings.
      size: number of hosts.

    Yields:
      The hosts; see `namespaces.Host`. All their processes are ended at the end.
    """
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=_SECONDS)
    made = not _SSHD_FOLDER.exists()
    _SSHD_FOLDER.mkdir(mode=0o755, exist_ok=True)
    _write_settings(folder)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder / 'bin'}:{before}"
    servers = []
    try:
        with namespaces.network(size) as hosts:
            for host in hosts:
                words = [_find("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")]
                log = open(folder / f"{host.name}.log", "w")
                servers.append(subprocess.Popen(host.command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log))
                log.close()
            for host in hosts:
                _await_answer(hosts[0], host, folder)
            yield hosts
    finally:
        for server in servers:
            server.kill()
            server.wait(_SECONDS)
        os.environ["PATH"] = before
        if made:
            with contextlib.suppress(OSError):
                _SSHD_FOLDER.rmdir()


def _write_settings(folder):
    # The keys lie in a folder of the test, whose parents belong to other users or none, so StrictModes is off.
    (folder / "sshd_config").write_text(
        f"Port {PORT}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PidFile none\nMaxStartups 100\n"
    )
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"* {key}\n")
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\nUser root\n"
        "BatchMode yes\nConnectTimeout 10\nUpdateHostKeys no\n"
    )
    (folder / "bin").mkdir()
    ssh = folder / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {_find("ssh")} -F {folder}/ssh_config "$@"\n')
    ssh.chmod(0o755)


def _await_answer(first, host, folder):
    """Wait until `first` can run a command on `host` by ssh."""
    end = time.monotonic() + _SECONDS
    while True:
        command = first.command(str(folder / "bin" / "ssh"), host.name, "hostname")
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        if done.stdout.strip() == host.name:
            return
        if time.monotonic() > end:
            log = (folder / f"{host.name}.log").read_text()
            raise TimeoutError(f"{host.name} does not answer by ssh: {done.stderr.strip()}\n{log}")
        time.sleep(0.2)


if __name__ == "__main__":  # python -m tests.support.hosts FOLDER COMMAND: run a command on the first of two hosts
    with network(Path(sys.argv[1])) as hosts:
        words = [word.format(*(host.name for host in hosts)) for word in sys.argv[2:]]
        sys.exit(subprocess.run(hosts[0].command(*words)).returncode)
