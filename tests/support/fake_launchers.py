"""Imitate programs that no test machine has: Cobalt, PBS, aprun, the mpiexec of PALS, and srun without Slurm.

Each program writes down its arguments, refuses an option that is not in its manual, and then does the real work as far
as this machine can. qsub runs the script with the variables that the scheduler would set, and the launchers start real
MPI ranks with the local mpiexec. `put` writes the programs into a folder for the PATH.

The options are from the man pages of Cobalt's qsub, of aprun (HPE) and of srun, the ALCF's user guides for PALS, and
the PBS Professional reference guide.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

# For each program: options with a value, and options without one.
KNOWN = {
    "aprun": (
        "-n --pes -N --pes-per-node -d --cpus-per-pe -j --cpus-per-cu -cc --cpu-binding -e --environment-override "
        "-S --pes-per-numa-node -m --memory-per-pe -L --node-list -p --protection-domain -t --cpu-time-limit",
        "-b --bypass-app-transfer -B --batch-args -q --quiet -ss --strict-memory-containment -T --sync-output",
    ),
    "mpiexec": (
        "-n --np -np --ppn -ppn -d --depth --cpu-bind --env -env --hostfile --hosts --wdir --mem-bind --line-buffer",
        "--envall --envnone --label --verbose",
    ),
    "srun": (
        "-n --ntasks -N --nodes --ntasks-per-node -c --cpus-per-task --cpu-bind --kill-on-bad-exit --mpi -t --time "
        "--distribution --export --gpu-bind",
        "--label --overlap --exclusive",
    ),
    "cobalt": (
        "-n --nodecount --proccount -A --project --cwd -q --queue -M --notify --env -t --time -u --umask "
        "-O --outputprefix -e --error -o --output -i --inputfile --debuglog --dependencies --attrs --user_list "
        "--run_users --jobname",
        "-d --debug -v --verbose -h --held --preemptable --run_project --disable_preboot -I --interactive",
    ),
    "pbs": ("-A -a -c -C -e -h -j -k -l -M -m -N -o -p -P -q -r -S -u -v -W", "-I -V -X -z -f"),
}
RESOURCES = {"select", "place", "walltime", "filesystems", "nodes"}
FOLDER = "FAKE_LAUNCHERS"  # variable with the folder of the programs
REAL = "FAKE_LAUNCHERS_MPIEXEC"  # variable with this machine's own mpiexec


def put(folder: Path, scheduler: str | None, launcher: str | None, mpiexec: str) -> dict[str, str]:
    """Write the programs into a new folder.

    Args:
      folder: where, created here.
      scheduler: cobalt, pbs, or None.
      launcher: aprun, mpiexec, srun, or None.
      mpiexec: path of this machine's own mpiexec.

    Returns:
      The environment variables that the programs and their callers need.
    """
    folder.mkdir()
    programs = [*([launcher] if launcher else []), *(["qsub", "qstat", "qdel"] if scheduler else [])]
    for program in programs + ["module"]:
        role = program if program == launcher else f"{scheduler}-{program}"
        script = folder / program
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {role} "$@"\n')
        script.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", REAL: mpiexec, FOLDER: str(folder)}


def calls(folder: Path, role: str) -> list[list[str]]:
    """Return the arguments of each call of a program."""
    file = folder / f"{role}.calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main(role: str, *words: str) -> int:
    """Write down the call, and do what the program would do."""
    folder = Path(os.environ[FOLDER])
    with open(folder / f"{role}.calls", "a") as file:
        file.write(json.dumps(words) + "\n")
    if role in ("aprun", "mpiexec", "srun"):
        return launch(role, list(words))
    if role.endswith("module"):
        return 0
    scheduler, _, program = role.partition("-")
    return {"qsub": qsub, "qstat": qstat, "qdel": qdel}[program](scheduler, folder, list(words))


def parse_options(program: str, words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return (option, value) pairs and the words after the options. An unknown option ends the program."""
    valued, plain = (part.split() for part in KNOWN[program])
    found = []
    while words and words[0].startswith("-"):
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in plain:
            found.append((word, ""))
        elif name in valued and equals and name.startswith("--"):
            found.append((name, value))
        elif word in valued and words:
            found.append((word, words.pop(0)))
        else:
            sys.exit(f"{program}: unknown option {word}")
    return found, words


def launch(program: str, words: list[str]) -> int:
    """Start the ranks that the launcher would start, with this machine's mpiexec."""
    if words == ["--version"]:
        print("PALS stand-in" if program == "mpiexec" else program)
        return 0
    options, command = parse_options(program, words)
    given = dict(options)
    names = [name for name in ("-n", "--pes", "--np", "-np", "--ntasks") if name in given]
    ranks = given[names[0]] if names else os.environ["SLURM_NTASKS"]  # only srun has a default
    environment = {**os.environ, "OMPI_MCA_btl": "^tcp"}
    for name, value in options:
        if name in ("-e", "--environment-override", "--env", "-env"):
            key, _, text = value.partition("=")
            environment[key] = text
    real = os.environ[REAL]
    os.execvpe(real, [real, "--oversubscribe", "-n", ranks, *command], environment)


def directives(scheduler: str, text: str) -> list[tuple[str, str]]:
    """Return the (option, value) pairs in a script's comments, as its scheduler reads them."""
    lines = text.splitlines()[1:]
    if scheduler == "cobalt":
        # qsub.py reads from the second line to the first other line, and splits only at white space.
        count = next((n for n, line in enumerate(lines) if not line.startswith("#COBALT ")), len(lines))
        words = [line.removeprefix("#COBALT ").split() for line in lines[:count]]
        stray = [line for line in lines[count:] if line.startswith("#COBALT")]
    else:
        # PBS reads up to the first line that is neither empty nor a comment.
        count = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
        words = [shlex.split(line.removeprefix("#PBS ")) for line in lines[:count] if line.startswith("#PBS ")]
        stray = [line for line in lines[count:] if line.startswith("#PBS")]
    if stray:
        sys.exit(f"qsub: {stray[0]} stands where it is not read")
    options, rest = parse_options(scheduler, [word for line in words for word in line])
    if rest:
        sys.exit(f"qsub: {rest} is no option")
    return options


def qsub(scheduler: str, folder: Path, words: list[str]) -> int:
    """Run the script in the background as the job, and print the job's number."""
    script = Path(words[-1])
    options = directives(scheduler, script.read_text())
    number = f"{4000 + len(list(folder.glob('*.script')))}"
    given = dict(options)
    if scheduler == "cobalt":
        environment = cobalt(script, given, folder, number, int(given.get("-n") or given["--nodecount"]))
    else:
        number += ".stand-in"
        environment = pbs(options, folder, number)
    (folder / f"{number}.options").write_text(json.dumps(options))
    copy = folder / f"{number}.script"
    copy.write_text(script.read_text())
    with open(folder / f"{number}.output", "wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", f"bash {copy}; echo $? >{folder}/{number}.status"],
            env={**os.environ, **environment},
            cwd=given.get("--cwd") or (os.getcwd() if scheduler == "cobalt" else os.environ["HOME"]),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    (folder / f"{number}.pid").write_text(str(process.pid))
    print(number)
    return 0


def cobalt(script: Path, given: dict[str, str], folder: Path, number: str, nodes: int) -> dict[str, str]:
    """Check the request as Cobalt would, and return the job's variables."""
    time = given.get("-t") or given.get("--time", "")
    if not re.fullmatch(r"\d+(:\d\d:\d\d)?", time) or not os.access(script, os.X_OK):
        sys.exit(f"qsub: time {time!r}, or {script} is not executable")
    for pair in given.get("--attrs", "a=b").split(":"):
        if not re.fullmatch(r"\w+=\w+", pair):
            sys.exit(f"qsub: bad attribute {pair}")
    return {
        "COBALT_JOBID": number,
        "COBALT_PARTSIZE": str(nodes),
        "COBALT_JOBSIZE": str(given.get("--proccount", nodes)),
        "COBALT_NODEFILE": node_file(folder, number, nodes),
    }


def pbs(options: list[tuple[str, str]], folder: Path, number: str) -> dict[str, str]:
    """Check the request as PBS would, and return the job's variables."""
    resources = {}
    for name, value in options:
        for part in value.split(",") if name == "-l" else []:
            key, _, text = part.partition("=")
            if key not in RESOURCES or key in resources:
                sys.exit(f"qsub: resource {key} is unknown, or there twice")
            resources[key] = text
    chunk = re.fullmatch(r"(\d+)((?::\w+=\w+)*)", resources.get("select", ""))
    if not chunk or not re.fullmatch(r"\d+:\d+:\d+", resources.get("walltime", "")):
        sys.exit(f"qsub: resources {resources}")
    copies = int(dict(pair.split("=") for pair in chunk[2].split(":") if pair).get("mpiprocs", 1))
    # Without place=scatter, PBS may put all chunks on one node.
    nodes, copies = (int(chunk[1]), copies) if "scatter" in resources.get("place", "") else (1, copies * int(chunk[1]))
    return {
        "PBS_JOBID": number,
        "PBS_ACCOUNT": dict(options).get("-A", ""),
        "PBS_O_WORKDIR": os.getcwd(),
        "PBS_NODEFILE": node_file(folder, number, nodes, copies),
    }


def node_file(folder: Path, number: str, nodes: int, copies: int = 1) -> str:
    """Write a node file with different addresses of this machine, which count as different hosts. Return its path."""
    path = folder / f"{number}.nodes"
    path.write_text("".join(f"127.0.0.{2 + node}\n" * copies for node in range(nodes)))
    return str(path)


def qstat(scheduler: str, folder: Path, words: list[str]) -> int:
    """Print the job's state in the two formats that the course uses."""
    number = words[-1]
    if not (folder / f"{number}.pid").exists():
        if scheduler == "pbs":
            print(f"qstat: Unknown Job Id {number}", file=sys.stderr)
        return 1
    status = folder / f"{number}.status"
    if scheduler == "cobalt":
        if words[:-1] != ["-l", "--header=Jobid:State"]:
            sys.exit(f"qstat: {words}")
        if status.exists():
            return 1
        print(f"Jobid : {number}\n    State : running\n")
        return 0
    if words[:-1] != ["-x", "-f", "-F", "json"]:
        sys.exit(f"qstat: {words}")
    job = {"job_state": "F", "Exit_status": int(status.read_text())} if status.exists() else {"job_state": "R"}
    print(json.dumps({"Jobs": {number: {**job, "resources_used": {"walltime": "00:00:05"}}}}))
    return 0


def qdel(scheduler: str, folder: Path, words: list[str]) -> int:
    """End the job."""
    os.killpg(int((folder / f"{words[-1]}.pid").read_text()), 15)
    (folder / f"{words[-1]}.status").write_text("271")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
