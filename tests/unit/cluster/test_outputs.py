"""Test that a batch run replaces nothing but what an earlier batch run wrote."""

import json
import os

from cluster.batch import outputs, overview, pages

import nbformat
import pytest
from nbformat.v4 import new_notebook


def refused(out, target, sources=(), swept=False):
    with pytest.raises(outputs.OutputError, match="which no earlier batch run wrote") as caught:
        outputs.check(out, [target], sources, swept)
    return str(caught.value)


@pytest.fixture
def copy(tmp_path):
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks" / "a.ipynb"


def ours(path, exception=False):
    marks = {"input_path": "a.ipynb", "output_path": "a.ipynb", "exception": exception}
    path.write_text(json.dumps({"metadata": {"papermill": marks}, "cells": [], "nbformat": 4, "nbformat_minor": 5}))


def test_a_notebook_that_is_no_copy_is_never_replaced(tmp_path, copy):
    for metadata in ({}, {"papermill": {"input_path": "/x/a.ipynb", "output_path": "b.ipynb", "exception": False}}):
        nbformat.write(new_notebook(metadata=metadata), copy)
        assert str(copy) in refused(tmp_path, copy)
    for text in ("", "notes", "[]", '{"metadata": {"papermill": null}}'):
        copy.write_text(text)
        refused(tmp_path, copy)


def test_a_source_is_never_replaced_though_it_was_once_a_copy(tmp_path, copy):
    ours(copy)
    outputs.check(tmp_path, [copy], [], swept=False)
    refused(tmp_path, copy, sources=[copy])
    link = tmp_path / "link.ipynb"
    link.symlink_to(copy)
    refused(tmp_path, copy, sources=[link])


@pytest.mark.parametrize("name", ["index.html", "sweep.csv", "notebooks/a.html"])
def test_pages_and_tables_of_others_are_never_replaced(tmp_path, copy, name):
    (tmp_path / name).write_text("<!DOCTYPE html>\n<h1>My course</h1>, status, minutes")
    assert name in refused(tmp_path, copy, swept=True)
    (tmp_path / name).unlink()
    os.symlink("nowhere", tmp_path / name)
    assert name in refused(tmp_path, copy, swept=True)


def test_what_a_run_wrote_is_replaced_by_the_next_one(tmp_path, copy):
    ours(copy, exception=True)
    copy.with_suffix(".html").write_text(f"<html><head>{pages.MARK}</head></html>")
    (tmp_path / "index.html").write_text(overview.index([], tmp_path, "a note"))
    (tmp_path / "sweep.csv").write_text("notebook,epochs,status,minutes\n")
    outputs.check(tmp_path, [copy], [], swept=True)
    # The first edition's pages had no mark, and its index is known by its heading.
    copy.with_suffix(".html").write_text("<html></html>")
    (tmp_path / "index.html").write_text("<main>\n<h1>Executed notebooks</h1>")
    outputs.check(tmp_path, [copy], [], swept=True)
    copy.unlink()
    refused(tmp_path, copy)


def test_the_name_of_an_earlier_good_copy_is_nobody_else_s(tmp_path, copy):
    other = copy.with_name("a.last-good.ipynb")
    with pytest.raises(outputs.OutputError, match="same file a.last-good"):
        outputs.check(tmp_path, [copy, other], [], False)
    other.write_text('{"my": "own notebook"}')
    assert str(other) in refused(tmp_path, copy)
    ours(other)
    outputs.check(tmp_path, [copy], [], False)
