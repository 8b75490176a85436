"""Start `measure` on ranks with a chosen all-reduce, in network namespaces or by shared memory, and read its table."""

import os
import signal
import subprocess
import sys
from typing import Any

from cluster import supervise
from cluster.simulate import namespaces
from helpers import ROOT

# Each algorithm by Open MPI's number (coll_tuned_allreduce_algorithm, Open MPI 4.1) and by SMPI's name. We do not use
# SMPI's "rab", which counts no time for its sums.
ALGORITHMS = {"recursive doubling": (3, "rdb"), "ring": (4, "lr"), "Rabenseifner": (6, "rab_rdb")}


def measure(
    ranks: int,
    algorithm: str,
    sizes: list[int],
    hosts: list[namespaces.Host] | None = None,
    what: tuple[str, ...] = ("allreduce",),
    margin: float = 0.02,
    timeout: float = 200.0,
    repeats: int = 7,
    eager_bytes: int = 65536,
) -> list[dict[str, Any]]:
    """Time all-reduces of Open MPI.

    Args:
      ranks: number of ranks.
      algorithm: one of `ALGORITHMS`.
      sizes: bytes.
      hosts: one for each rank. None puts all ranks on this machine, where they use shared memory.
      what: from `measure.WHAT`.
      margin: seconds before each measurement, longer than a broadcast needs.
      timeout: seconds after which the launch is ended.
      repeats: number of measurements of each size.
      eager_bytes: between hosts, from this size on a message waits until its receiver has answered.

    Returns:
      One row for each measurement: what, bytes, repeats, low, seconds (the median), high.

    Raises:
      RuntimeError: the launch failed, with its own words, or it took too long.
    """
    number = str(ALGORITHMS[algorithm][0])
    settings = {
        "coll_tuned_use_dynamic_rules": "1", "coll_tuned_allreduce_algorithm": number, "mpi_yield_when_idle": "1",
        "btl": "self,tcp" if hosts else "self,vader", "oob_tcp_if_include": "eth0" if hosts else "127.0.0.0/8",
    }  # fmt: skip
    words = ["mpiexec", "-n", str(ranks)]
    if hosts:
        settings |= {"btl_tcp_if_include": "eth0", "plm_rsh_agent": hosts[0].agent, "btl_tcp_free_list_num": "2"}
        limits = ("btl_tcp_eager_limit", "btl_tcp_rndv_eager_limit", "btl_tcp_max_send_size")
        settings |= {name: str(eager_bytes) for name in limits} | {"btl_tcp_free_list_inc": "2"}
        words += ["--bind-to", "none", "--host", ",".join(f"{host.name}:1" for host in hosts)]
    else:
        words += ["--map-by", "core:oversubscribe", "--bind-to", "core:overload-allowed"]
    words += [word for key, value in settings.items() for word in ("--mca", key, value)]
    words += [sys.executable, "-m", "cluster.simulate.measure", "--sizes", *map(str, sizes), "--what", *what]
    words += ["--margin", str(margin), "--repeats", str(repeats)]
    command = hosts[0].command(*words) if hosts else words
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    # Otherwise each call asks the kernel for its buffers anew, which takes longer than the sums.
    allowed |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
    process = subprocess.Popen(
        [*supervise.command(ROOT), *command], cwd=ROOT, env={**os.environ, **allowed, "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the ranks were not done within {timeout:g} seconds") from error
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()
    if process.returncode:
        raise RuntimeError(f"the ranks failed: {errors.strip()[-1000:]}")
    rows = [line.split(",") for line in output.split()]
    return [
        {"what": row[0], "bytes": int(row[1]), "repeats": int(row[2]), "low": float(row[3]), "seconds": float(row[4]),
         "high": float(row[5])} for row in rows
    ]  # fmt: skip
