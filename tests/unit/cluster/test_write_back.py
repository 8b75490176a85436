"""Test how the outputs of an executed notebook are written back into its source."""

import copy
from pathlib import Path

from cluster.batch import sources, write_back
from helpers import ROOT

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

from tests.support.notebooks import notebook


@pytest.fixture
def source(tmp_path):
    return notebook(
        tmp_path, "01_x.ipynb", prose="# A title", parameters="epochs = 1", work="epochs", empty="", last="2"
    )


def executed(source, **outputs):
    """Return the notebook as papermill leaves it, with an injected cell and the given outputs of the cells."""
    made = nbformat.read(source, 4)
    made.cells.insert(2, new_code_cell("epochs = 7", id="injected", metadata={"tags": ["injected-parameters"]}))
    code = [cell for cell in made.cells if cell.cell_type == "code" and cell.source]
    for count, cell in enumerate(code, 1):
        cell.execution_count, cell.outputs = count, outputs.get(cell.id, [])
        cell.metadata["papermill"] = {"duration": 0.1}
    return made


def test_outputs_and_counts_are_replaced_and_nothing_else(source):
    before = nbformat.read(source, 4)
    value = new_output("execute_result", {"text/plain": "7"}, execution_count=3, metadata={"engine": 0})
    image = new_output("display_data", {"image/png": "aGk="}, metadata={"image/png": {"alt": "a dot"}, "msg_id": "x"})
    assert write_back.write_outputs(source, executed(source, work=[value], last=[image])) == ""
    after = nbformat.read(source, 4)
    cells = {cell.id: cell for cell in after.cells}
    counts = {name: cell.execution_count for name, cell in cells.items() if cell.cell_type == "code"}
    assert counts == {"parameters": 1, "work": 2, "empty": None, "last": 3}
    (written,) = cells["work"].outputs
    assert (written.data, written.execution_count, written.metadata) == ({"text/plain": "7"}, 2, {})
    assert cells["last"].outputs[0].metadata == {"image/png": {"alt": "a dot"}}
    for cell in after.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    assert after == before


@pytest.mark.parametrize("path", [ROOT, Path.home()], ids=["course", "home"])
def test_a_notebook_whose_outputs_name_a_path_of_this_machine_stays_as_it_was(source, path):
    before = source.read_bytes()
    told = new_output("stream", text=f"saved to {path}/runs\n")
    message = write_back.write_outputs(source, executed(source, last=[told]))
    assert message.startswith("cell last: not written back") and str(path) in message
    assert source.read_bytes() == before
    # A longer name that starts with the path is another folder.
    other = new_output("stream", text=f"saved to {path}-elsewhere\n")
    assert write_back.write_outputs(source, executed(source, last=[copy.deepcopy(other)])) == ""


def test_a_notebook_that_was_edited_during_the_run_stays_as_it_was(source):
    made, cells = executed(source), nbformat.read(source, 4).cells
    for edited in ([*cells, new_code_cell("3", id="added")], [*cells[:-2], cells[-1], cells[-2]], cells[:-1]):
        changed = nbformat.read(source, 4)
        changed.cells = edited
        nbformat.write(changed, source)
        before = source.read_bytes()
        assert write_back.write_outputs(source, made).startswith("not written back, because cells changed")
        assert source.read_bytes() == before


def test_a_notebook_without_ids_of_cells_keeps_its_format(source):
    older = nbformat.read(source, 4)
    older.nbformat_minor = 4
    for cell in older.cells:
        del cell["id"]
    nbformat.write(older, source)
    made = sources.read(source)
    made.cells.insert(2, new_code_cell("epochs = 7", metadata={"tags": ["injected-parameters"]}))
    made.cells[3].outputs = [new_output("stream", text="7")]
    assert write_back.write_outputs(source, made) == ""
    after = nbformat.read(source, 4)
    assert after.cells[2].outputs[0].text == "7"
    after.cells[2].outputs = []
    assert after == older


def test_a_link_to_a_notebook_stays_a_link(source):
    link = source.with_name("link.ipynb")
    link.symlink_to(source.name)
    value = new_output("stream", text="7")
    assert write_back.write_outputs(link, executed(source, work=[value])) == ""
    assert link.is_symlink() and "7" in [
        o.text for cell in nbformat.read(source, 4).cells for o in cell.get("outputs", [])
    ]


def test_a_notebook_that_cannot_be_written_is_reported(source, monkeypatch):
    made = executed(source)

    def full(path, *_, **__):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(write_back.files, "write", full)
    assert write_back.write_outputs(source, made).startswith("not written back: [Errno 28] No space left")
