"""Test how notebooks of any origin are read, which kernel runs them, and where their copies are placed."""

import json
from pathlib import Path

from cluster.batch import parameters, sources, values

import nbformat
import pytest
from nbformat.v4 import new_code_cell

KERNELS = {"python3": "python", "bash": "bash", "mine": "python"}


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    specs = {name: {"spec": {"language": language}} for name, language in KERNELS.items()}
    monkeypatch.setattr(sources.KernelSpecManager, "get_all_specs", lambda self: specs)


def with_metadata(metadata):
    """Return a notebook with metadata that need not be valid."""
    return nbformat.from_dict({"metadata": metadata, "cells": []})


def saved(path, *cells, **content):
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells} | content))
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"kernelspec": None},
        {"kernelspec": {"name": "python2"}},
        {"kernelspec": {"name": "conda-env-tf-py"}},
        {"kernelspec": {"name": "mine"}},
        {"kernelspec": {"name": "venv", "language": "python"}},
        {"kernelspec": {"name": "venv"}, "language_info": {"name": "python", "version": "3.9"}},
        {"language_info": {"name": "ipython"}},
        {"kernelspec": {"name": "python3", "language": "Python3"}},
    ],
)
def test_python_of_any_kernel_is_run_by_this_environment(metadata):
    made = with_metadata(metadata)
    assert sources.language(made) == "python" and sources.kernel(made)["name"] == "python3"


def test_another_language_is_run_by_its_own_kernel_alone():
    for metadata in ({"kernelspec": {"name": "bash"}}, {"kernelspec": {"name": "bash", "language": "Bash"}}):
        assert sources.kernel(with_metadata(metadata))["name"] == "bash"


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"kernelspec": {"name": "ir", "language": "R"}}, "its language is R, and no kernel ir for it is installed"),
        ({"kernelspec": {"name": "ir"}, "language_info": {"name": "R"}}, "no kernel ir"),
        ({"kernelspec": {"name": "ir"}}, "no kernel ir"),
        ({"kernelspec": {"name": "julia-1.10", "language": "julia"}}, "its language is julia"),
        ({"language_info": {"name": "R"}}, "names no kernel"),
        ({"kernelspec": {"name": "python3"}, "language_info": {"name": "R"}}, "no kernel python3"),
        ({"language": "Julia"}, "its language is Julia"),
    ],
)
def test_without_its_kernel_a_notebook_of_another_language_is_never_given_to_python(metadata, told):
    with pytest.raises(sources.NotebookError, match=told):
        sources.kernel(with_metadata(metadata))


def test_every_format_is_read_as_the_newest_and_cells_without_ids_get_their_number(tmp_path):
    plain = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": "1"}
    old = {"cell_type": "code", "input": "1", "language": "python", "outputs": [], "metadata": {}, "collapsed": False}
    for path, ids in (
        (saved(tmp_path / "four.ipynb", plain, plain, nbformat_minor=0), ["1", "2"]),
        (saved(tmp_path / "some.ipynb", plain | {"id": "a"}, plain, nbformat_minor=4), ["a", "2"]),
        (saved(tmp_path / "bare.ipynb", {"cell_type": "code", "source": "1", "metadata": {}, "id": "b"}), ["b"]),
        (saved(tmp_path / "three.ipynb", nbformat=3, nbformat_minor=0, worksheets=[{"cells": [old]}]), None),
    ):
        made = sources.read(path)
        assert (made.nbformat, made.nbformat_minor) == (4, 5)
        assert all(cell.source == "1" and cell.outputs == [] for cell in made.cells)
        assert ids in (None, [cell.id for cell in made.cells])
        nbformat.validate(made)
    marked = tmp_path / "marked.ipynb"
    marked.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(sources.read(marked).cells) == 1
    for content in (b"", b'{"cells": [', b"[]", b"{}", b"\xff\xfe"):
        marked.write_bytes(content)
        with pytest.raises(sources.NotebookError, match=r"marked\.ipynb cannot be read as a notebook"):
            sources.read(marked)


def test_saved_states_of_widgets_are_left_out(tmp_path):
    for state in ({"application/vnd.jupyter.widget-state+json": {"5d2": {}}}, {}, None):
        assert "widgets" not in sources.read(saved(tmp_path / "a.ipynb", metadata={"widgets": state})).metadata


def test_parameters_are_found_without_kernel_metadata_and_a_broken_notebook_is_left_to_its_run(tmp_path):
    cells = [new_code_cell(text, metadata={"tags": ["parameters"]}) for text in ("n = 1", "%time\nn = 1")]
    plain, magic = (saved(tmp_path / f"{number}.ipynb", cell) for number, cell in enumerate(cells))
    broken = tmp_path / "broken.ipynb"
    broken.write_text("{")
    assigned = parameters.assign([plain, broken, magic], {"n": values.read("7")}, {}, "quick")
    assert assigned == [(plain, {"n": 7}, {}), (broken, {}, {}), (magic, {"n": 7}, {})]
    other = saved(tmp_path / "r.ipynb", cells[0], metadata={"kernelspec": {"name": "ir", "language": "R"}})
    assert parameters.assign([plain, other], {"n": values.read("7")}, {}, "quick")[1] == (other, {}, {})
    with pytest.raises(parameters.InputError, match=r"broken\.ipynb cannot be read"):
        parameters.assign([broken], {}, {}, "quick")


def test_notebooks_of_one_name_keep_their_folders():
    def placed(*paths):
        return [place.as_posix() for place in sources.places(map(Path, paths)).values()]

    course = [sources.NOTEBOOKS / "01_x.ipynb", sources.NOTEBOOKS / "solutions" / "01_y.ipynb"]
    assert placed(*course, "/a/b/c.ipynb") == ["01_x.ipynb", "solutions/01_y.ipynb", "c.ipynb"]
    assert placed("/a/w1/x.ipynb", "/a/w2/x.ipynb", "/a/y.ipynb") == ["w1/x.ipynb", "w2/x.ipynb", "y.ipynb"]
    assert placed("/a/x.ipynb", "/a/w/x.ipynb") == ["x.ipynb", "w/x.ipynb"]
    assert placed("/a/X.ipynb", "/b/x.ipynb") == ["a/X.ipynb", "b/x.ipynb"]
    assert len(set(placed(*course, "/a/01_x.ipynb"))) == 3


def test_a_link_to_a_notebook_keeps_its_name_and_a_link_to_a_folder_does_not(tmp_path):
    saved(tmp_path / "real.ipynb")
    (tmp_path / "link.ipynb").symlink_to("real.ipynb")
    (tmp_path / "way").symlink_to(tmp_path)
    assert sources.located(tmp_path / "way" / "link.ipynb") == tmp_path.resolve() / "link.ipynb"
