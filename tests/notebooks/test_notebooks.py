"""Every notebook as it is committed, and every one run in its quick profile.

tests/unit/test_tidy_notebooks.py checks their order of execution, their metadata, and that no output has a local path.
"""

import base64
import os
import re
import subprocess
import sys

from helpers import ROOT

import nbformat
import pytest

FOLDER = ROOT / "notebooks"
CHAPTERS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted(FOLDER.glob("solutions/*.ipynb"))
JOBS = sorted(FOLDER.glob("jobs/*.ipynb"))  # which a sweep runs, so they are committed without outputs
each = pytest.mark.parametrize("path", CHAPTERS + SOLUTIONS + JOBS, ids=lambda path: path.stem)
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def prose(path):
    return "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")


@each
def test_it_is_a_valid_notebook_of_small_size(path):
    nbformat.validate(nbformat.read(path, 4))
    assert path.stat().st_size < 2_000_000


@each
def test_it_has_one_parameters_cell_first_with_a_profile(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code_cells(path)[:1]
    assert re.search(r'^profile = "quick"', tagged[0].source, flags=re.M)


@each_chapter
def test_its_outputs_are_all_there_without_errors_or_warnings(path):
    cells = [cell for cell in code_cells(path) if cell.source.strip()]
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    noise = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not noise


@each
def test_it_closes_with_versions_and_provenance(path):
    last = code_cells(path)[-1]
    assert "provenance.report(" in last.source
    if path in CHAPTERS:
        assert "tensorflow-probability" in last.outputs[0].text and "commit" in last.outputs[0].text


@each_chapter
def test_it_has_the_parts_of_a_chapter(path):
    text = prose(path)
    for part in ("**You will be able to**", "**Takes**", "## Summary", "## Exercises", "## References"):
        assert part in text, part
    assert (FOLDER / "solutions" / f"{path.stem}_solutions.ipynb").is_file()


@each
def test_every_figure_has_an_alternative_text(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(output.metadata.get("image/png", {}).get("alt", "")) > 20, cell.id
                assert base64.b64decode(output.data["image/png"])[:4] == b"\x89PNG"


@each
def test_links_to_notebooks_and_files_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", prose(path)):
        assert (path.parent / target).exists(), target


def test_the_readme_names_every_notebook_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    assert all((ROOT / target).exists() for target in targets)
    assert [f"notebooks/{path.name}" for path in CHAPTERS] == [
        t for t in targets if t.endswith(".ipynb") and "/jobs/" not in t
    ]


def test_the_figure_of_the_readme_is_that_of_notebook_00():
    (cell,) = (cell for cell in code_cells(CHAPTERS[0]) if cell.id == "taste-figure")
    (image,) = (output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {}))
    same = base64.b64decode(image) == (FOLDER / "readme.png").read_bytes()
    assert same, "copy the figure of cell taste-figure to notebooks/readme.png, and read the caption in README again"


def quick_name(path):
    """Return the name of a notebook's test case. tests/conftest.py groups those that start MPI ranks by it."""
    words = ("engines.start(", "launcher.command(", "cluster.scaling", '\\"mpiexec\\"')
    return path.stem + "-on_ranks" * any(word in path.read_text() for word in words)


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """The output folder of all quick runs, which also share what they train."""
    return tmp_path_factory.mktemp("build")


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("path", CHAPTERS + SOLUTIONS + JOBS, ids=quick_name)
def test_it_runs_in_its_quick_profile(path, build):
    """The notebook runs to its end with the command that `make run` uses, and leaves a page and an index."""
    words = [sys.executable, "-m", "cluster.run_notebooks", str(path), "--profile", "quick", "--timeout", "900"]
    environment = {**os.environ, "BNN_RUNS_DIR": str(build / "runs")}
    done = subprocess.run(
        [*words, "--output", str(build)], cwd=ROOT, env=environment, timeout=960, capture_output=True, text=True
    )
    executed = build / "notebooks" / path.relative_to(FOLDER)
    assert executed.is_file(), done.stderr[-3000:]
    failed = [o for cell in code_cells(executed) for o in cell.outputs if o.output_type == "error"]
    assert not failed, f"{failed[0].ename}: {failed[0].evalue}"
    assert done.returncode == 0, done.stderr[-3000:]
    page = executed.with_suffix(".html")
    assert page.is_file() and f'href="{page.relative_to(build)}"' in (build / "index.html").read_text()


@pytest.mark.parametrize("number", ["06", "10"])
def test_multi_rank_notebooks_say_what_they_lack_and_do_not_fail(number, tmp_path):
    """With a launcher that is not here, as mpiexec is not after HOROVOD=0."""
    chapter = next(path for path in CHAPTERS if path.name.startswith(number))
    command = [sys.executable, "-m", "cluster.run_notebooks", str(chapter), "--output", str(tmp_path)]
    environment = {**os.environ, "BNN_LAUNCHER": "aprun"}
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = code_cells(tmp_path / "notebooks" / chapter.name)
    said = "".join(o.text for cell in cells for o in cell.outputs if o.output_type == "stream")
    assert "aprun is not on the PATH" in said and "cells below do nothing" in said
