"""Execute notebooks with papermill, one after the other, and save their copies, pages, index and table."""

import contextlib
import errno
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.batch import outputs, pages, sources, sweep
from helpers import ROOT, progress

import nbformat
import papermill
import psutil
from nbformat import NotebookNode
from tqdm import tqdm

_INTERRUPTED = "interrupted"
_COMPILE_LIMIT = 1800  # seconds that a notebook waits for Horovod
_PRINT_LIMIT = 600  # seconds that what a cell has printed may take to arrive after the cell's end


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
      outputs.OutputError: the folder cannot be written, another process uses it, two runs would write the same file,
        or a run would replace a file that no batch run wrote.
    """
    places = sources.places(each.source for each in runs)
    targets = [output / "notebooks" / places[each.source].with_name(f"{each.name}.ipynb") for each in runs]
    twice = [target.name for target in targets if targets.count(target) > 1]
    if twice:
        raise outputs.OutputError(
            f"Several runs would write the same file {twice[0]}. Give each of them another --output."
        )
    outputs.check(output, targets, places, any(each.values for each in runs))
    order = list(range(len(runs)))
    if compiling:
        order.sort(key=lambda place: _needs_horovod(runs[place].source))
    # If a sweep runs a notebook several times, links in other notebooks lead to the first run.
    links = {each.source: target.with_suffix(".html") for each, target in reversed([*zip(runs, targets, strict=True)])}
    cells = [_cells(each.source) for each in runs]
    results: dict[int, sweep.Result] = {}  # by the place of the run in `runs`
    with outputs.held(output), progress.bar(total=sum(cells)) as bar:
        bar.unit = "cell"
        for place in order:
            each, target = runs[place], targets[place]
            name = target.relative_to(output / "notebooks").with_suffix("").as_posix()
            if compiling and _needs_horovod(each.source):
                bar.set_description("waiting for Horovod to be compiled")
                _wait_for_horovod(compiling)
            bar.set_description(name)
            begun = time.monotonic()
            models = output / "runs" / name if each.values else None
            with _environment(ranks, models):
                notebook, message = _execute(each, target, places[each.source], timeout, bar)
            minutes = (time.monotonic() - begun) / 60
            result = sweep.Result(each, name, minutes, message, notebook, place=places[each.source])
            results[place] = result
            try:
                if notebook:
                    _keep(notebook, result, models, target, links, output)
                outputs.summarise([results[done] for done in sorted(results)], output, note)
            except OSError as error:
                result.message = result.message or outputs.unwritten(error)
            bar.n = sum(cells[done] for done in results)
            bar.write(f"{name:36} {'done' if result.ok else 'FAILED':6} {result.minutes:6.1f} min")
            yield result
            if message == _INTERRUPTED:
                return


def _keep(
    notebook: NotebookNode, result: sweep.Result, models: Path | None, target: Path, links: dict[Path, Path], home: Path
) -> None:
    """Write the executed notebook and its page, and complete the result. A page that cannot be made fails the run."""
    page, source = "", result.run.source
    try:
        result.results = sweep.results(notebook, models) if result.ok else {}
        title = pages.title(notebook, source.stem)
        title += f" ({result.label})" if "/" in result.label else ""
        result.title = sweep.heading(title, result.run.values, result.results)
        page = pages.page(notebook, source, target.with_suffix(".html"), links, home)
    except Exception as error:  # whatever readers bring, the other notebooks go on
        result.message = result.message or f"its page cannot be made ({type(error).__name__}: {_first_line(error)})"
    outputs.save(notebook, page, result.ok, target)
    result.page = target.with_suffix(".html") if page else None


def _cells(source: Path) -> int:
    """Return the number of cells of a notebook, 0 if it cannot be read."""
    try:
        return len(sources.read(source).cells)
    except sources.NotebookError:
        return 0


def _needs_horovod(source: Path) -> bool:
    """Return whether the notebook skips cells where Horovod is missing."""
    return "engines.skip_rest_if_missing" in source.read_text(encoding="utf-8", errors="replace")


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
        # A kernel sets this itself, unless the shell has another value. Figures of Agg never reach the notebook.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
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


def _execute(each: sweep.Run, target: Path, place: Path, timeout: float, bar: tqdm) -> tuple[NotebookNode | None, str]:
    """Execute one notebook.

    Returns:
      The notebook as far as it got, or None if there is nothing to keep, and what failed, or "".
    """
    # papermill writes while it runs. It gets a file of its own, so that the copy of an earlier run stays until the end.
    part = target.with_name(".part.ipynb")
    deadline = time.monotonic() + timeout
    last, message = None, ""

    def begun(cell: NotebookNode, cell_index: int) -> None:
        nonlocal last
        last = cell.get("id", cell_index)
        bar.update()

    try:
        notebook = sources.read(each.source)
        notebook.metadata.kernelspec = kernel = sources.kernel(notebook)
        part.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, part)
        python = kernel == sources.PYTHON
        path = str(part).replace("{", "{{").replace("}", "}}")  # papermill takes a path for a format string
        papermill.execute_notebook(
            path,
            path,
            each.parameters,
            kernel_name=kernel["name"],
            language=kernel["language"],
            progress_bar=False,
            cwd=str(each.source.parent),
            # Otherwise the kernel of Python writes its log to this terminal.
            extra_arguments=["--log-level=CRITICAL"] if python else [],
            timeout_func=lambda cell: max(1, math.ceil(deadline - time.monotonic())),
            iopub_timeout=_PRINT_LIMIT,
            on_cell_start=begun,
        )
    except sources.NotebookError as error:
        return None, str(error)
    except KeyboardInterrupt:
        message = _INTERRUPTED
    except papermill.PapermillExecutionError as error:
        message = f"{error.ename}: {_first_line(error.evalue)}"
    except Exception as error:
        message = f"{type(error).__name__}: {_first_line(error)}"
        if isinstance(error, TimeoutError) and time.monotonic() >= deadline:
            message = f"not finished within {timeout:g} seconds (--timeout)"
        if isinstance(error, OSError) and error.errno in (*outputs.FULL, errno.EROFS, errno.EACCES):
            message = outputs.unwritten(error)
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
    shown = os.fsencode(place.as_posix()).decode("utf-8", "backslashreplace")
    notebook.metadata.setdefault("papermill", {}).update(input_path=shown, output_path=shown, exception=bool(message))
    return notebook, message


def _first_line(error: object) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [""])[0]
