"""Execute notebooks with papermill, one after the other: what lands where, and what became of each."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from cluster.batch import pages, sweep
from helpers import ROOT

import nbformat
import papermill
import psutil
from tqdm import tqdm

NOTEBOOKS = ROOT / "notebooks"
_INTERRUPTED = "interrupted"
_GOOD = ".last-good"  # in the name of a copy that ran to its end, once a run that failed has taken its place
_COMPILE_LIMIT = 1800  # seconds that a notebook waits for Horovod
_FULL = (errno.ENOSPC, errno.EDQUOT)


class OutputError(Exception):
    """The output folder cannot be used; nothing was run, and the message says why."""


@dataclass
class Result:
    """What became of one run: `message` says what failed; `page` is None if it left nothing.

    `values` are what a sweep chose of the parameters, and `results` the numbers that the notebook handed over.
    """

    source: Path
    title: str
    minutes: float
    message: str = ""
    page: Path | None = None
    notebook: object = None
    values: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)

    @property
    def ok(self):
        return not self.message


def run(parameters, *, output, ranks=2, timeout=3600, note="", swept=None, compiling=None):
    """Run notebooks one after the other, each in a kernel of its own; a failed one does not stop the rest.

    Args:
      parameters: dict from each notebook's absolute path to a dict of its parameters.
      output: folder; executed copies and pages go to its `notebooks`, over them `index.html`.
      ranks: what notebooks find as $BNN_RANKS.
      timeout: seconds a notebook may take.
      note: a sentence for the index.
      swept: dict from parameters to lists of values, for a run of each combination (`sweep.expand`). Each run of a
        sweep has a $BNN_RUNS_DIR of its own, so that none takes what another has trained; `sweep.csv` is the table.
      compiling: number of the process that compiles Horovod, or None. Notebooks that need Horovod then come last, and
        wait for the end of this process.

    Yields:
      A `Result` for each as it ends, with the executed notebook as far as it got. Interrupted by SIGINT
      (KeyboardInterrupt), the one that was running is the last.

    Raises:
      OutputError: the folder cannot be written, or another run is at work in it.
    """
    with _hold(output):
        yield from _run(parameters, output, ranks, timeout, note, swept, compiling)


def _needs_horovod(source):
    """Whether the notebook skips cells where Horovod is missing."""
    return "engines.skip_rest_if_missing" in source.read_text(encoding="utf-8")


def _wait_for_horovod(compiling):
    """Wait until the set-up in the background has ended. If it has failed, the notebook says what it lacks."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        psutil.Process(compiling).wait(timeout=_COMPILE_LIMIT)


def _run(parameters, output, ranks, timeout, note, swept, compiling):
    runs = in_order = sweep.expand(parameters, swept or {})
    if compiling:
        runs = sorted(in_order, key=lambda each: _needs_horovod(each.source))
    targets = [output / "notebooks" / within(each.source).with_name(f"{each.name}.ipynb") for each in runs]
    # Of several runs of a notebook, links in others lead to the first.
    linked = {each.source: target.with_suffix(".html") for each, target in reversed([*zip(runs, targets, strict=True)])}
    cells = {source: len(nbformat.read(source, 4).cells) for source in parameters}
    results, total = {}, sum(cells[each.source] for each in runs)  # results by the place in the order asked for
    with tqdm(total=total, disable=None, unit="cell", leave=False) as bar:
        for each, target in zip(runs, targets, strict=True):
            if compiling and _needs_horovod(each.source):
                bar.set_description("waiting for Horovod to be compiled")
                _wait_for_horovod(compiling)
            bar.set_description(each.name)
            begun = time.monotonic()
            models = output / "runs" / each.name if each.values else None
            with _environment(ranks, models):
                notebook, message = _execute(each.source, target, each.parameters, timeout, bar)
            result = Result(each.source, each.name, (time.monotonic() - begun) / 60, message, values=each.values)
            results[in_order.index(each)] = result
            try:
                if notebook:
                    result.notebook, result.page = notebook, target.with_suffix(".html")
                    result.results = sweep.results(notebook, models) if result.ok else {}
                    result.title = sweep.heading(pages.title(notebook, each.source.stem), result)
                    _keep(result, target, linked)
                so_far = [results[place] for place in sorted(results)]
                pages.write(output / "index.html", pages.index(so_far, output, note))
                if swept:
                    pages.write(output / "sweep.csv", sweep.as_csv(sweep.rows(so_far)))
            except OSError as error:
                result.message = result.message or _unwritten(error)
            bar.n = sum(cells[done.source] for done in results.values())
            bar.write(f"{each.name:36} {'done' if result.ok else 'FAILED':6} {result.minutes:6.1f} min")
            yield result
            if message == _INTERRUPTED:
                return


def _hold(output):
    """Take the output folder for this run alone; returns the file with the lock, which ends with its process."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = open(output / ".run", "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            with file:
                who = file.read().strip()
            raise OutputError(
                f"{output} is in use by another run ({who}). Wait for its end, or choose another --output."
            ) from error
        except OSError:
            pass  # a file system without locks
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    except OSError as error:
        raise OutputError(f"--output {output}: {_unwritten(error)}") from error
    return file


def _keep(result, target, linked):
    """Write the executed notebook and its page; where it failed, an older copy that did not stays beside it."""
    copies = (target, result.page)
    if not result.ok and _ended_well(target):
        for path in filter(Path.is_file, copies):
            os.replace(path, path.with_name(f"{path.stem}{_GOOD}{path.suffix}"))
    pages.write(target, nbformat.writes(result.notebook) + "\n")
    pages.write(result.page, pages.page(result.notebook, result.source, result.page, linked))
    for path in copies if result.ok else ():
        path.with_name(f"{path.stem}{_GOOD}{path.suffix}").unlink(missing_ok=True)


def _ended_well(copy):
    """Whether there is a copy that an earlier run executed to its end."""
    try:
        return not json.loads(copy.read_text())["metadata"]["papermill"]["exception"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _unwritten(error):
    """What to say of an output that could not be written."""
    advice = "; make room for it" if error.errno in _FULL else ""
    return f"the output cannot be written ({error}){advice}"


def within(source):
    """Where a notebook lies below the output folder: as it does below notebooks/, or by its name alone."""
    return source.relative_to(NOTEBOOKS) if source.is_relative_to(NOTEBOOKS) else Path(source.name)


@contextlib.contextmanager
def _environment(ranks, models):
    """The environment that kernels inherit, for as long as they are started."""
    ours = {
        "BNN_RANKS": str(ranks),
        "BNN_QUIET": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        # Not a kernel of the same name that the user has for another Python.
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        **({"BNN_RUNS_DIR": str(models)} if models else {}),
    }
    before = {name: os.environ.pop(name, None) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _execute(source, target, parameters, timeout, bar):
    """Run one notebook; returns it as far as it got, or None, and what failed, or ""."""
    # papermill writes as it goes; the copy of an earlier run stays whole until this one has ended.
    part = target.with_name(f".{target.stem}.part.ipynb")
    deadline = time.monotonic() + timeout
    last, message = None, ""

    def begun(cell, cell_index):
        nonlocal last
        last = cell.get("id", cell_index)
        bar.update()

    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        papermill.execute_notebook(
            str(source),
            str(part),
            parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=str(source.parent),
            # A kernel's own log would go to this terminal.
            extra_arguments=["--log-level=CRITICAL"],
            timeout_func=lambda cell: max(1, int(deadline - time.monotonic())),
            on_cell_start=begun,
        )
    except KeyboardInterrupt:
        message = _INTERRUPTED
    except papermill.PapermillExecutionError as error:
        message = f"{error.ename}: {_first_line(error.evalue)}"
    except TimeoutError:
        message = f"not finished within {timeout:g} seconds (--timeout)"
    except Exception as error:
        message = f"{type(error).__name__}: {_first_line(error)}"
        if getattr(error, "errno", None) in (*_FULL, errno.EROFS, errno.EACCES):
            message = _unwritten(error)
    if message and last is not None:
        message = f"cell {last}: {message}" if message != _INTERRUPTED else message
    try:
        notebook = nbformat.read(part, 4)
    except (OSError, ValueError) as error:  # on a full disk it is empty, or cut off
        return None, message or f"its executed copy cannot be read: {_first_line(error)}"
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    notebook.metadata.papermill |= {name: within(source).as_posix() for name in ("input_path", "output_path")}
    notebook.metadata.papermill["exception"] = bool(message)
    return notebook, message


def _first_line(error):
    return (str(error).strip().splitlines() or [""])[0]
