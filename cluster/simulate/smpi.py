"""Run `replay.c` on simulated networks with SimGrid's SMPI.

SimGrid's own factors of latency and bandwidth are those of one Ethernet cluster of 2012: a message of 64 KB or more has
11.6 times the latency of its links. They are all replaced here, so that nothing but the arguments decides.
"""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

REPLAY = Path(__file__).with_name("replay.c")
PACKAGE = "libsimgrid-dev (Debian, Ubuntu: apt install libsimgrid-dev libboost-dev)"
_COMPILE_SECONDS = 120


class SimulationError(RuntimeError):
    """A simulation that did not end well, or not in time."""


@dataclass(frozen=True)
class Costs:
    """What a message and a sum cost beside the links of the platform.

    Attributes:
      overhead: seconds that a rank needs to send a message, before its first byte leaves.
      eager_bytes: from this size on a message waits for its receiver: two short messages go before it.
      bandwidth: share of a link's rate that is left for the bytes of a message.
      sum: seconds to add one byte of gradients.
    """

    overhead: float = 0.0
    eager_bytes: int = 65536
    bandwidth: float = 1.0
    sum: float = 0.0


def missing() -> str | None:
    """Return what is missing for a simulation and which package brings it, or None."""
    for program in ("smpicc", "smpirun"):
        if shutil.which(program) is None:
            return f"{program} is not on the PATH. It belongs to SimGrid, which is in the package {PACKAGE}."
    return None


def compiled(folder: Path) -> Path:
    """Compile the program into a folder, and return its path.

    Raises:
      SimulationError: SimGrid is missing, or the compiler failed or took too long.
    """
    reason = missing()
    if reason:
        raise SimulationError(reason)
    program = folder / "replay"
    words = ["smpicc", "-O2", str(REPLAY), "-o", str(program), "-lm"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise SimulationError(f"smpicc did not compile {REPLAY.name} within {_COMPILE_SECONDS} seconds") from error
    if done.returncode:
        raise SimulationError(f"smpicc cannot compile {REPLAY.name}: {done.stderr.strip()[-500:]}")
    return program


def cluster(hosts: int, delay: float, rate: float) -> str:
    """Return a platform of hosts that have one cable each to a switch.

    Args:
      hosts: number of hosts.
      delay: seconds from one host to another one.
      rate: bits a second of a cable, in each direction.
    """
    return f"""<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <cluster id="cluster" prefix="node-" suffix="" radical="0-{hosts - 1}" speed="1Gf" bw="{rate:.0f}bps"
           lat="{delay / 2 * 1e9:.3f}ns" sharing_policy="SPLITDUPLEX"/>
</platform>
"""


def simulate(
    program: Path,
    platform: str,
    places: Sequence[str],
    algorithm: str,
    buckets: Sequence[int],
    costs: Costs,
    compute: float = 0.0,
    timeout: float = 120.0,
) -> list[tuple[int, float, float]]:
    """Simulate one training step, or several all-reduces by themselves.

    Args:
      program: what `compiled` returned.
      platform: text of the platform file.
      places: name of the host of each rank.
      algorithm: SMPI's name of the all-reduce: lr, rab_rdb, rdb or redbcast.
      buckets: bytes of each all-reduce.
      costs: of messages and sums.
      compute: seconds before the first all-reduce. If it is negative, all ranks begin each all-reduce at one moment.
      timeout: seconds after which the simulation is ended.

    Returns:
      For each bucket its bytes, the seconds of its all-reduce, and the seconds from the step's begin to its end.

    Raises:
      SimulationError: the simulation failed or was not done in time.
    """
    with tempfile.TemporaryDirectory(prefix="bnn-simulate-") as folder:
        xml, hosts = Path(folder, "platform.xml"), Path(folder, "hosts")
        xml.write_text(platform)
        hosts.write_text("\n".join(places) + "\n")
        settings = {
            "smpi/allreduce": algorithm, "smpi/reduce": "binomial", "smpi/bcast": "binomial_tree",
            "smpi/simulate-computation": "no", "smpi/host-speed": "1Gf",
            "smpi/cpu-threshold": "0", "network/crosstraffic": "0", "smpi/bw-factor": f"0:{costs.bandwidth}",
            "smpi/lat-factor": f"0:1;{costs.eager_bytes}:3", "smpi/send-is-detached-thresh": f"{costs.eager_bytes}",
            "smpi/tmpdir": folder, "network/TCP-gamma": "1e12", "smpi/os": f"0:{costs.overhead}:0:0:0",
            "smpi/ois": f"0:{costs.overhead}:0:0:0",
        }  # fmt: skip
        words = ["smpirun", "-np", str(len(places)), "-platform", str(xml), "-hostfile", str(hosts)]
        words += [f"--cfg={key}:{value}" for key, value in settings.items()]
        words += ["--log=root.thres:error", str(program), repr(costs.sum), repr(compute), *map(str, buckets)]
        try:
            status, output, errors = _run(words, folder, timeout)
        except subprocess.TimeoutExpired as error:
            raise SimulationError(f"{len(places)} ranks were not simulated within {timeout:g} seconds") from error
        if status:
            raise SimulationError(f"smpirun failed: {(errors or output).strip()[-500:]}")
    return parse(output, len(buckets))


def _run(words: Sequence[str], folder: str, timeout: float) -> tuple[int, str, str]:
    """Run smpirun; return its status and what it wrote. If it does not end in time, what it has started ends too."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # smpirun is a script, and the simulator is its child. Both stay in this group, so that Ctrl-C ends them.
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            raise
    return process.returncode, output, errors


def parse(output: str, buckets: int) -> list[tuple[int, float, float]]:
    """Read what the program prints.

    Args:
      output: one line for each bucket: bytes, seconds, seconds since the step began.
      buckets: how many lines there must be.

    Raises:
      SimulationError: there are more or fewer lines, or they are not of that form.
    """
    try:
        rows = [(int(size), float(seconds), float(end)) for size, seconds, end in map(str.split, output.splitlines())]
    except ValueError as error:
        raise SimulationError(f"the simulation printed something else than times: {output[:200]!r}") from error
    if len(rows) != buckets:
        raise SimulationError(f"the simulation printed {len(rows)} times and not {buckets}")
    return rows
