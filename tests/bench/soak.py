"""An hour of training on two ranks, and whether anything grew or was left behind: `python -m tests.bench.soak`.

Every few seconds: each process's own memory, open files, threads and shared memory segments, into soak.csv. Pages of
programs and libraries are left out of the memory: a kernel takes and gives those as it likes. Time is counted in
samples, so that what stops all processes for a while stops this clock too.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cluster import launcher, supervise
from helpers import ROOT
from helpers.files import read_csv

import numpy as np
import psutil

from tests.support.processes import children

RANKS = 2
WARM_UP = 0.25  # of the samples: buffers fill, allocators settle
ALLOWED = 0.02  # growth of memory in an hour, as a share of it
STEPS = 10**9  # more than an hour has room for


def start(folder):
    """The training command on two ranks; whatever it leaves in its own folder for temporary files is its own."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    flags = ["--model=BNN_FC_flip", f"--output={folder}", f"--iterations={STEPS}", "--num_monte_carlo=10"]
    flags += ["--eval_freq=2000", "--validation_examples=500"]
    # If this process is killed, the ranks go too.
    command = supervise.command(temporary) + launcher.command(RANKS, sys.executable, "-m", "helpers.train", *flags)
    environment = {**os.environ, **launcher.environment(), "TMPDIR": str(temporary)}
    with open(folder / "output.txt", "w") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)


def segments(process):
    """The shared memory that a process has mapped: names in /dev/shm, and SysV segments."""
    with open(f"/proc/{process.pid}/maps") as maps:
        names = {line.split(maxsplit=5)[5].strip() for line in maps if "/dev/shm/" in line or "/SYSV" in line}
    return {name.removesuffix(" (deleted)") for name in names}


def sample(minutes):
    """(a row for each process below this one, names of the shared memory that they have mapped)."""
    rows, mapped = [], set()
    for process in children():
        try:
            memory = process.memory_info()
            rank, own = process.environ().get("OMPI_COMM_WORLD_RANK"), segments(process)
            row = {"minutes": minutes, "process": f"rank {rank}" if rank else process.name(), "pid": process.pid}
            row |= {"own_mb": (memory.rss - memory.shared) / 1e6, "files": process.num_fds()}
            rows.append(row | {"threads": process.num_threads(), "segments": len(own)})
            mapped |= own
        except (psutil.Error, OSError):
            continue  # it ended meanwhile
    return rows, mapped


def watch(run, interval, count, path):
    """Take `count` samples, then end the run as a scheduler would; (rows, names of shared memory)."""
    found, mapped = [], set()
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["minutes", "process", "pid", "own_mb", "files", "threads", "segments"])
        writer.writeheader()
        for number in range(count):
            rows, names = sample(round(number * interval / 60, 3))
            writer.writerows(rows)
            file.flush()
            found, mapped = found + rows, mapped | names
            time.sleep(interval)
            if run.poll() is not None:
                raise RuntimeError(f"the run ended by itself with status {run.returncode}, see output.txt")
    run.terminate()
    run.wait(60)
    return found, mapped


def judge(rows):
    """A line for each process that lived from the warm-up to the end, and whether it stayed flat."""
    lines, flat = [], True
    last = max(row["minutes"] for row in rows)
    for pid in dict.fromkeys(row["pid"] for row in rows):
        mine = [row for row in rows if row["pid"] == pid and row["minutes"] >= WARM_UP * last]
        if len(mine) < 10:
            continue
        minutes, own = (np.array([row[key] for row in mine]) for key in ("minutes", "own_mb"))
        slope = 60 * np.polyfit(minutes, own, 1)[0]
        half = len(mine) // 2
        counts = {key: [row[key] for row in mine] for key in ("files", "threads", "segments")}
        grown = [key for key, values in counts.items() if max(values[half:]) > max(values[:half])]
        good = slope < ALLOWED * np.median(own) and not grown
        flat = flat and good
        lines.append(
            f"{mine[0]['process']}: {np.median(own):.0f} MB, {slope:+.1f} MB/hour over {minutes[-1] - minutes[0]:.0f} "
            f"minutes; {', '.join(f'{key} at most {max(values)}' for key, values in counts.items())}; "
            + ("flat" if good else "GROWING" + "".join(f" ({key})" for key in grown))
        )
    return lines, flat and bool(lines)


def left_behind(mapped, pids, folder):
    """What is still there when all should be over: processes, shared memory, temporary files."""
    found = [f"process {process.pid} {process.name()}" for process in children()]
    found += [name for name in sorted(mapped) if name.startswith("/dev/shm/") and os.path.exists(name)]
    with open("/proc/sysvipc/shm") as table:
        found += [f"SysV segment {line.split()[1]}" for line in list(table)[1:] if int(line.split()[4]) in pids]
    return found + [str(path) for path in (folder / "tmp").rglob("*") if not path.is_dir()]


def main(argv=None):
    """Run, report, and return 0 if memory stayed flat and nothing was left."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--interval", type=float, default=5, help="seconds between samples")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "soak")
    options = parser.parse_args(argv)
    folder = options.output.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    began, run = time.time(), start(folder)
    rows, mapped = watch(run, options.interval, int(options.minutes * 60 / options.interval), folder / "soak.csv")
    lines, flat = judge(rows)
    left = left_behind(mapped, {row["pid"] for row in rows}, folder)
    steps = read_csv(folder / "BNN_FC_flip" / "steps.csv")[-1]["step"]
    clock = (time.time() - began) / 60
    print(
        f"{steps} steps and {steps // 2000} evaluations in {rows[-1]['minutes']:.1f} minutes ({clock:.1f} by the clock)"
    )
    print(*lines, f"left behind: {', '.join(left) or 'nothing'}", sep="\n")
    return 0 if flat and not left else 1


if __name__ == "__main__":
    sys.exit(main())
