"""Test the index of a batch run, and the chart that compares the runs of a sweep. Nothing runs here."""

import base64
import html
import io
import re

from cluster.batch import compare, overview, sweep

import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image


def result(tmp_path, message="", notebook=None, found=None, **values):
    run = sweep.Run(tmp_path / "a.ipynb", "a", {"profile": "quick", **values}, values)
    return sweep.Result(run, "A title", 1.26, message, notebook, results=found or {})


def drawn(size=(1000, 500)):
    """A notebook whose second cell draws a figure."""
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    output = new_output("display_data", data, metadata={"image/png": {"alt": "All red & nothing else"}})
    return new_notebook(cells=[new_code_cell("1"), new_code_cell("2", outputs=[output])])


def test_the_index_escapes_names_and_leads_to_every_page(tmp_path):
    names = ["Übung #2 (50%)", "a?b", "a:b", 'x"y<z>', "\udce9"]
    runs = [sweep.Run(tmp_path / f"{name}.ipynb", name, {}, {}) for name in names]
    done = [sweep.Result(run, run.name, 0.1, page=tmp_path / "notebooks" / f"{run.name}.html") for run in runs]
    text = overview.index(done, tmp_path, "a note")
    assert re.findall('href="([^"]*)"', text) == [
        "notebooks/%C3%9Cbung%20%232%20%2850%25%29.html",
        "notebooks/a%3Fb.html",
        "notebooks/a%3Ab.html",
        "notebooks/x%22y%3Cz%3E.html",
        "notebooks/%E9.html",
    ]
    assert html.escape('x"y<z>') in text and text.encode()


def test_the_index_shows_status_duration_parameters_and_the_first_figure(tmp_path):
    done = [result(tmp_path, notebook=drawn(), epochs=20), result(tmp_path, "cell x: ValueError: <b>", epochs=3)]
    soup = BeautifulSoup(overview.index(done, tmp_path, "a note"), "html.parser")
    first, second = soup.select_one("table").select("tbody tr")
    assert [cell.get_text(" ") for cell in first.select("td, th")][1:] == [
        "A title", "profile = quick epochs = 20", "done", "1.3"
    ]  # fmt: skip
    assert first.select_one("img")["alt"] == "All red & nothing else"
    data = base64.b64decode(first.select_one("img")["src"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (320, 160), "twice the width that is shown"
    assert second.get_text(" ").split("\n")[-1].strip().startswith(
        "A title"
    ) and "failed : cell x: ValueError: <b>" in (second.get_text(" "))
    assert not second.select("img")


def test_a_sweep_is_compared_in_a_table_and_a_chart(tmp_path):
    done = [
        result(tmp_path, found={"accuracy": 0.9 + rate, "commit": "abc"}, rate=rate, model=model)
        for rate in (1e-3, 1e-2, 1e-1)
        for model in ("BNN", "CNN")
    ]
    soup = BeautifulSoup(overview.index(done, tmp_path, "a note"), "html.parser")
    table = soup.select("table")[1]
    assert [cell.get_text() for cell in table.select("th")] == [
        "notebook", "rate", "model", "status", "minutes", "accuracy", "commit"
    ]  # fmt: skip
    assert len(table.select("tbody tr")) == 6 and "0.901" in table.get_text()
    chart = soup.select_one("img.chart")
    assert chart["alt"].startswith("accuracy against rate")
    svg = base64.b64decode(chart["src"].partition(",")[2]).decode()
    assert svg.count("use xlink:href") > 6 and re.search("<svg", svg)


def test_words_are_compared_too(tmp_path):
    done = [result(tmp_path, found={"nll": number}, method=name) for number, name in enumerate(("swag", "ivon"))]
    chart, text = compare.chart(done)
    assert chart.startswith("data:image/svg+xml") and text.startswith("nll against method")


@pytest.mark.parametrize("found", [{}, {"commit": "abc"}])
def test_where_nothing_can_be_compared_there_is_no_chart(tmp_path, found):
    assert compare.chart([result(tmp_path, found=found, rate=rate) for rate in (1, 2)]) == ("", "")
    assert compare.chart([result(tmp_path, found={"nll": 1.0}, rate=1)] * 2) == ("", "")
    assert compare.chart([]) == ("", "")
