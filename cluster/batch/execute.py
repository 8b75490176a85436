"""Execute notebooks with papermill, one after the other, and save their copies, pages, index and table."""

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.batch import pages, sweep
from helpers import ROOT, files, progress

import nbformat
import papermill
import psutil
from nbformat import NotebookNode
from tqdm import tqdm

NOTEBOOKS = ROOT / "notebooks"
_INTERRUPTED = "interrupted"
_GOOD = ".last-good"  # marks the copy of a run that succeeded, after a run that failed has taken its name
_COMPILE_LIMIT = 1800  # seconds that a notebook waits for Horovod
_FULL = (errno.ENOSPC, errno.EDQUOT)


class OutputError(Exception):
    """The output folder cannot be used, so nothing was run. The message says why and what to do."""


def run(
    runs: list[sweep.Run],
    *,
    output: Path,
    ranks: int = 2,
    timeout: float = 3600,
    note: str = "",
    compiling: int | None = None,
) -> Iterator[sweep.Result]:
    """Run notebooks one after the other, each in its own kernel. If one fails, the remaining ones still run.

    Args:
      runs: the runs (`sweep.expand`). A run of a sweep gets its own $BNN_RUNS_DIR, so it cannot use a model that
        another run has trained.
      output: folder. Executed copies and pages are written to its `notebooks`, and beside it `index.html` and, for a
        sweep, `sweep.csv`.
      ranks: number of MPI ranks, which notebooks read from $BNN_RANKS.
      timeout: seconds that one notebook may take.
      note: a sentence for the index.
      compiling: id of the process that compiles Horovod, or None. Notebooks that need Horovod then run last and wait
        for the end of this process.

    Yields:
      The `sweep.Result` of each run when it ends. After SIGINT (KeyboardInterrupt) the run that was interrupted is
      the last one.

    Raises:
      OutputError: the folder cannot be written, another process uses it, or two runs would write the same file.
    """
    targets = [output / "notebooks" / within(each.source).with_name(f"{each.name}.ipynb") for each in runs]
    twice = [target.name for target in targets if targets.count(target) > 1]
    if twice:
        raise OutputError(f"Several runs would write the same file {twice[0]}. Give each of them another --output.")
    order = list(range(len(runs)))
    if compiling:
        order.sort(key=lambda place: _needs_horovod(runs[place].source))
    # If a sweep runs a notebook several times, links in other notebooks lead to the first run.
    links = {each.source: target.with_suffix(".html") for each, target in reversed([*zip(runs, targets, strict=True)])}
    cells = [len(nbformat.read(each.source, 4).cells) for each in runs]
    results: dict[int, sweep.Result] = {}  # by the place of the run in `runs`
    with _held(output), progress.bar(total=sum(cells)) as bar:
        bar.unit = "cell"
        for place in order:
            each, target = runs[place], targets[place]
            if compiling and _needs_horovod(each.source):
                bar.set_description("waiting for Horovod to be compiled")
                _wait_for_horovod(compiling)
            bar.set_description(each.name)
            begun = time.monotonic()
            models = output / "runs" / each.name if each.values else None
            with _environment(ranks, models):
                notebook, message = _execute(each, target, timeout, bar)
            result = sweep.Result(each, each.name, (time.monotonic() - begun) / 60, message, notebook)
            results[place] = result
            try:
                if notebook:
                    result.page = target.with_suffix(".html")
                    result.results = sweep.results(notebook, models) if result.ok else {}
                    title = pages.title(notebook, each.source.stem)
                    result.title = sweep.heading(title, each.values, result.results)
                    _save(notebook, each, result.ok, target, links)
                _summarise([results[done] for done in sorted(results)], output, note)
            except OSError as error:
                result.message = result.message or _unwritten(error)
            bar.n = sum(cells[done] for done in results)
            bar.write(f"{each.name:36} {'done' if result.ok else 'FAILED':6} {result.minutes:6.1f} min")
            yield result
            if message == _INTERRUPTED:
                return


def within(source: Path) -> Path:
    """Return the path of a notebook below the output folder: as it is below notebooks/, or its name alone."""
    return source.relative_to(NOTEBOOKS) if source.is_relative_to(NOTEBOOKS) else Path(source.name)


@contextlib.contextmanager
def _held(output: Path) -> Iterator[None]:
    """Make the output folder and keep other processes from using it."""
    with contextlib.ExitStack() as stack:
        # files.held would make a folder that only its owner can read. It also reports what goes wrong here.
        with contextlib.suppress(OSError):
            output.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(files.held(output))
        except OSError as error:
            raise OutputError(f"--output: {error}") from error
        yield


def _needs_horovod(source: Path) -> bool:
    """Return whether the notebook skips cells where Horovod is missing."""
    return "engines.skip_rest_if_missing" in source.read_text(encoding="utf-8")


def _wait_for_horovod(compiling: int) -> None:
    """Wait until the process that compiles Horovod ends. If it failed, the notebook says what is missing."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        psutil.Process(compiling).wait(timeout=_COMPILE_LIMIT)


@contextlib.contextmanager
def _environment(ranks: int, models: Path | None) -> Iterator[None]:
    """Set the environment variables that a kernel inherits, and restore them afterwards."""
    ours = {
        "BNN_RANKS": str(ranks),
        "BNN_QUIET": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        # Otherwise Jupyter may choose a kernel of the same name that the user has installed for another Python.
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


def _execute(each: sweep.Run, target: Path, timeout: float, bar: tqdm) -> tuple[NotebookNode | None, str]:
    """Execute one notebook.

    Returns:
      The notebook as far as it got, or None if there is nothing to keep, and what failed, or "".
    """
    # papermill writes while it runs. It gets a file of its own, so that the copy of an earlier run stays until the end.
    part = target.with_name(f".{target.stem}.part.ipynb")
    deadline = time.monotonic() + timeout
    last, message = None, ""

    def begun(cell: NotebookNode, cell_index: int) -> None:
        nonlocal last
        last = cell.get("id", cell_index)
        bar.update()

    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        papermill.execute_notebook(
            str(each.source),
            str(part),
            each.parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=str(each.source.parent),
            # Otherwise the kernel writes its log to this terminal.
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
        if isinstance(error, OSError) and error.errno in (*_FULL, errno.EROFS, errno.EACCES):
            message = _unwritten(error)
    if message and last is not None:
        message = f"cell {last}: {message}" if message != _INTERRUPTED else message
    try:
        notebook = nbformat.read(part, 4)
    except (OSError, ValueError) as error:  # a full disk leaves the file empty or incomplete
        return None, message or f"its executed copy cannot be read: {_first_line(error)}"
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    # papermill stores absolute paths. A reader needs the path within the course.
    notebook.metadata.papermill |= {name: within(each.source).as_posix() for name in ("input_path", "output_path")}
    notebook.metadata.papermill["exception"] = bool(message)
    return notebook, message


def _save(notebook: NotebookNode, each: sweep.Run, ok: bool, target: Path, links: dict[Path, Path]) -> None:
    """Write the executed notebook and its page. If the run failed, keep the copy of an earlier run that succeeded."""
    page = target.with_suffix(".html")
    copies = (target, page)
    if not ok and _succeeded(target):
        for path in filter(Path.is_file, copies):
            os.replace(path, path.with_name(f"{path.stem}{_GOOD}{path.suffix}"))
    files.write(target, nbformat.writes(notebook) + "\n")
    files.write(page, pages.page(notebook, each.source, page, links))
    for path in copies if ok else ():
        path.with_name(f"{path.stem}{_GOOD}{path.suffix}").unlink(missing_ok=True)


def _summarise(results: list[sweep.Result], output: Path, note: str) -> None:
    """Write the index of the runs so far and, for a sweep, their table."""
    files.write(output / "index.html", pages.index(results, output, note))
    if any(result.run.values for result in results):
        files.write_csv(output / "sweep.csv", sweep.rows(results))


def _succeeded(copy: Path) -> bool:
    """Return whether the file is a notebook that an earlier run executed to its end."""
    try:
        return not json.loads(copy.read_text(encoding="utf-8"))["metadata"]["papermill"]["exception"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _unwritten(error: OSError) -> str:
    """Return the message for an output that could not be written."""
    advice = "make room for it" if error.errno in _FULL else "choose another --output"
    return f"the output cannot be written ({error}); {advice}"


def _first_line(error: object) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [""])[0]
