"""Test batch runs with real kernels, papermill and nbconvert, and how they report failures."""

import json
import os
import re
import signal
import subprocess
import threading

from cluster import engines, run_notebooks
from cluster.batch import execute, outputs, pages, sources, sweep
from helpers import ROOT

import nbformat
import pytest

from tests.support.notebooks import command, good, notebook, text_of, wait_for
from tests.support.processes import assert_gone, children

pytestmark = pytest.mark.timeout(180)


def test_a_failed_notebook_keeps_what_it_got_to_and_the_rest_go_on(tmp_path):
    first = good(tmp_path)
    bad = notebook(
        tmp_path,
        "02_bad.ipynb",
        prose="# A bad one",
        parameters="profile = 'quick'",
        fine="print('so far', profile)",
        broken="raise ValueError('no such thing\\nand more')",
        never="print('never')",
    )
    last = notebook(tmp_path, "03_last.ipynb", work="print('the last')")
    (tmp_path / "values.yaml").write_text("epochs: 5\nrate: 0.5\n")
    out = tmp_path / "out"
    run = command(first, bad, last, "--profile", "full", "--ranks", 3, "--output", out, "-f",
                  tmp_path / "values.yaml", "-p", "rate", "1e-3")  # fmt: skip
    said, errors = run.communicate(timeout=150)
    assert run.returncode == 1
    assert errors.count("02_bad.ipynb: cell broken: ValueError: no such thing\n") == 1
    assert re.findall(r"^(\w+) +(done|FAILED)", said, re.M) == [
        ("01_good", "done"),
        ("02_bad", "FAILED"),
        ("03_last", "done"),
    ]
    done = out / "notebooks"
    assert text_of(done / "01_good.ipynb", "work") == "full 5 0.001 3 1\n"
    assert text_of(done / "02_bad.ipynb", "fine") == "so far full\n"
    assert text_of(done / "02_bad.ipynb", "never") == ""
    assert text_of(done / "03_last.ipynb", "work") == "the last\n"
    assert {path.name for path in done.iterdir()} == {
        f"{name}.{kind}" for name in ("01_good", "02_bad", "03_last") for kind in ("ipynb", "html")
    }
    assert str(tmp_path) not in (done / "01_good.ipynb").read_text()

    page = (done / "01_good.html").read_text()
    assert "<title>A good one</title>" in page
    assert 'href="02_bad.html#where"' in page and 'href="https://example.org/x.ipynb"' in page
    assert re.findall(r'<img[^>]* alt="([^"]*)"|<img alt="([^"]*)"', page)[0].count("a dot") == 1
    sources = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?:[^"]*)"', page)
    assert not sources, "the pages need no network"
    assert (out / pages.MATHJAX).stat().st_size > 2_000_000
    index = (out / "index.html").read_text()
    assert 'href="notebooks/02_bad.html"' in index and "cell broken: ValueError: no such thing" in index
    assert index.count("<td>done</td>") == 2


def test_links_out_of_the_notebooks_lead_to_their_place_in_the_course():
    source = sources.NOTEBOOKS / "01_x.ipynb"
    target = ROOT / "build" / "notebooks" / "01_x.html"
    links = "[a](../README.md) [b](solutions/01_y.ipynb#z) [c](02_z.ipynb) [d](#here) [e](mailto:a@b.org)"
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(links)])
    page = pages.page(made, source, target, {source.with_name("02_z.ipynb"): target.with_name("02_z.html")})
    assert re.findall(r'<a href="([^"]*)"', page) == [
        "index.html",
        "../../README.md",
        "../../notebooks/solutions/01_y.ipynb#z",
        "02_z.html",
        "#here",
        "mailto:a@b.org",
    ]


def test_nothing_runs_if_the_command_line_is_wrong(tmp_path, capsys):
    path = good(tmp_path)
    out = tmp_path / "out"

    def status_and_message(*arguments):
        status = run_notebooks.main([str(path), "--output", str(out), *map(str, arguments)])
        assert not out.exists()
        return status, capsys.readouterr().err

    status, message = status_and_message("-p", "epoch", 3)
    assert status == 2 and "parameter epoch" in message and "epochs, profile, rate" in message
    status, message = status_and_message("--only", "07")
    assert status == 2 and "--only 07" in message and "01_good.ipynb" in message
    status, message = status_and_message(tmp_path / "absent.ipynb")
    assert status == 2 and "absent.ipynb" in message
    (tmp_path / "values.yaml").write_text("- epochs\n")
    status, message = status_and_message("-f", tmp_path / "values.yaml")
    assert status == 2 and "values.yaml" in message and "epochs: 3" in message
    path.write_text('{"cells": [')
    status, message = status_and_message()
    assert status == 2 and "01_good.ipynb cannot be read" in message and message.count("\n") == 1


def test_which_notebooks_run_and_in_what_order(tmp_path):
    paths = [good(tmp_path, f"{number:02}_x.ipynb") for number in (7, 4, 10)]
    assert run_notebooks.select(paths) == paths
    assert run_notebooks.select(paths, only=["04", "1"]) == paths[1:]
    usual, more = run_notebooks.select(), run_notebooks.select(solutions=True)
    assert usual == sorted(sources.NOTEBOOKS.glob("*.ipynb"))
    assert more[: len(usual)] == usual
    assert {path.parent.name for path in more[len(usual) :]} <= {"solutions"}


def test_two_runs_that_would_write_the_same_file_are_refused(tmp_path):
    out = tmp_path / "out"
    runs = sweep.expand({good(tmp_path): {"rate": 1}}, {"rate": ["x", "x"]})
    with pytest.raises(outputs.OutputError, match="Several runs would write the same file 01_good"):
        next(execute.run(runs, output=out))
    assert not out.exists()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        (result,) = execute.run(sweep.expand({notebook(tmp_path, "01_x.ipynb", work="1"): {}}), output=tmp_path / "out")
    finally:
        os.umask(before)
    assert result.ok
    for path in (tmp_path / "out", tmp_path / "out" / "notebooks"):
        assert path.stat().st_mode & 0o777 == 0o777 & ~mask
    for path in (tmp_path / "out" / "index.html", result.page, result.page.with_suffix(".ipynb")):
        assert path.stat().st_mode & 0o777 == mode


def test_a_dead_kernel_and_a_time_limit_are_reported_and_old_copies_survive(tmp_path):
    dead = notebook(tmp_path, "01_dead.ipynb", fine="print('here')", death="import os; os._exit(3)")
    slow = notebook(tmp_path, "02_slow.ipynb", fine="print('here')", wait="import time; time.sleep(100)")
    runs = sweep.expand({dead: {}, slow: {}})
    results = list(execute.run(runs, output=tmp_path / "out", timeout=12))
    assert "cell death: DeadKernelError" in results[0].message
    assert results[1].message == "cell wait: not finished within 12 seconds (--timeout)"
    assert results[1].minutes < 1
    for path in (dead, slow):
        assert text_of(tmp_path / "out" / "notebooks" / path.name, "fine") == "here\n"
    assert "BNN_RANKS" not in os.environ
    assert_gone(children())


def test_a_killed_run_leaves_the_older_copy_and_no_kernel(tmp_path):
    mark = tmp_path / "going"
    long = notebook(tmp_path, "01_long.ipynb", wait=f"open({str(mark)!r}, 'w')\nimport time\ntime.sleep(300)")
    older = tmp_path / "out" / "notebooks" / "01_long.ipynb"
    older.parent.mkdir(parents=True)
    marks = {"input_path": "01_long.ipynb", "output_path": "01_long.ipynb", "exception": False}
    older.write_text(json.dumps({"metadata": {"papermill": marks}, "cells": ["the older copy"]}))
    run = command(long, "--output", tmp_path / "out")
    family = wait_for(mark, run)
    run.kill()
    run.communicate(timeout=20)
    assert "the older copy" in older.read_text()
    assert_gone(family)


@pytest.mark.skipif(bool(engines.missing(horovod=False)), reason="no MPI engines here")
def test_sigterm_stops_kernel_and_engines(tmp_path):
    mark = tmp_path / "going"
    long = notebook(
        tmp_path,
        "01_long.ipynb",
        start="from cluster import engines\nranks = engines.start()\nprint(len(ranks), 'ranks')",
        wait=f"%%px\nopen({str(mark)!r}, 'w')\nimport time\ntime.sleep(300)",
    )
    after = notebook(tmp_path, "02_after.ipynb", work="print('not begun')")
    run = command(long, after, "--output", tmp_path / "out", "--ranks", 2)
    family = wait_for(mark, run)
    assert len(family) >= 8
    run.send_signal(signal.SIGTERM)
    said, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "01_long.ipynb: interrupted" in errors and "0 of 2 notebooks done" in said
    assert text_of(tmp_path / "out" / "notebooks" / "01_long.ipynb", "start") == "2 ranks\n"
    assert not (tmp_path / "out" / "notebooks" / "02_after.ipynb").exists()
    assert_gone(family)


def test_in_place_writes_outputs_and_nothing_else(tmp_path):
    fine = good(tmp_path)
    telling = good(tmp_path, "02_telling.ipynb", path=f"print({str(ROOT)!r} + '/helpers')")
    broken = good(tmp_path, "03_broken.ipynb", mistake="1 / 0")
    before = {path: path.read_text() for path in (fine, telling, broken)}
    run = command(fine, telling, broken, "--in-place", "--output", tmp_path / "out")
    _, errors = run.communicate(timeout=150)
    assert run.returncode == 1
    assert "02_telling.ipynb: cell path: not written back" in errors
    assert "03_broken.ipynb: cell mistake: ZeroDivisionError" in errors
    assert telling.read_text() == before[telling] and broken.read_text() == before[broken]
    written, source = nbformat.read(fine, 4), nbformat.reads(before[fine], 4)
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert code[1].outputs[0].text == "full 3 0.1 2 1\n"
    assert code[2].outputs[0].execution_count == 3
    assert code[3].outputs[0].metadata == {"image/png": {"alt": "a dot"}}
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    assert written == source


def test_notebooks_that_need_horovod_come_last_and_wait_until_it_is_compiled(tmp_path, monkeypatch):
    mark = tmp_path / "compiled"
    compiler = subprocess.Popen(["sh", "-c", f"sleep 15; touch '{mark}'"])
    monkeypatch.setenv("BNN_COMPILING", str(compiler.pid))
    seen = f"from pathlib import Path\nprint(Path({str(mark)!r}).exists())"
    ranks = notebook(tmp_path, "01_ranks.ipynb", skip="if False:\n    engines.skip_rest_if_missing()", seen=seen)
    alone = notebook(tmp_path, "02_alone.ipynb", seen=seen + "\nimport os\nprint('BNN_COMPILING' in os.environ)")
    out = tmp_path / "out"
    run = command(ranks, alone, "--output", out)
    threading.Thread(target=compiler.wait, daemon=True).start()  # the shell that starts it does the same
    said, errors = run.communicate(timeout=150)
    assert run.returncode == 0, errors
    assert said.index("02_alone") < said.index("01_ranks")
    assert text_of(out / "notebooks" / "02_alone.ipynb", "seen") == "False\nFalse\n"
    assert text_of(out / "notebooks" / "01_ranks.ipynb", "seen") == "True\n"
    index = (out / "index.html").read_text()
    assert index.index("01_ranks") < index.index("02_alone"), "the index keeps the order of the course"
