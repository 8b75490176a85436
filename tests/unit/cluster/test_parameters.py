"""Test how the texts of the command line become the parameters of each notebook."""

from cluster.batch import parameters

import pytest

from tests.support.notebooks import notebook


def test_p_overrides_f_and_sweep_overrides_both(tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text("epochs: 5\nrate: 0.5\nname: é\nsweep:\n  rate: [7]\n  seed: [0, 1]\n", encoding="utf-8")
    values, swept = parameters.parse([("epochs", "3"), ("seed", "9")], file, ["rate=1e-3,0.5"])
    assert values == {"epochs": 3, "rate": 0.001, "name": "é", "seed": 0}
    assert swept == {"rate": [0.001, 0.5], "seed": [0, 1]} and list(swept) == ["rate", "seed"]
    assert parameters.parse() == ({}, {})


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ("a word", "a word"), ("[1, 2]", [1, 2]), ("", None), ("'3'", "3"),
     ("1e-3", 0.001), ("-2E+4", -2e4), ("1.5e3", 1500.0), (".5e1", 5.0), ("1e", "1e"), ("x1e3", "x1e3")],
)  # fmt: skip
def test_values_are_yaml_and_numbers_may_have_exponents(text, value):
    values, _ = parameters.parse([("x", text)])
    assert values == {"x": value} and type(values["x"]) is type(value)
    _, swept = parameters.parse(sweeps=[f"y=7,{text or 'null'}"])
    assert swept == {"y": [7, value]}


@pytest.mark.parametrize("sweep", ["rate", "rate=", "rate=1,1", "rate=1e-3,0.001"])
def test_a_sweep_needs_different_values(sweep):
    with pytest.raises(parameters.InputError, match="^--sweep rate: expected different values"):
        parameters.parse(sweeps=[sweep])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- epochs", "expected lines such as 'epochs: 3', found"),
        (b"sweep: 3", "expected 'sweep: {epochs: \\[3, 5\\]}', found 3"),
        (b"sweep:\n  rate: 3", "--sweep rate: expected different values"),
        (b"epochs: [", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (None, "cannot be read as YAML: .*No such file"),
    ],
)
def test_a_file_that_holds_no_parameters_is_refused_in_one_line(tmp_path, content, said):
    file = tmp_path / "values.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(parameters.InputError, match=said) as error:
        parameters.parse(file=file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{,", "2026-13-45"])
def test_a_value_that_is_no_yaml_is_refused_in_one_line(text):
    with pytest.raises(parameters.InputError, match="^-p or --sweep: .* not valid YAML.*Put text in quotes") as error:
        parameters.parse([("x", text)])
    assert "\n" not in str(error.value)


def test_each_notebook_gets_the_parameters_that_it_declares(tmp_path):
    both = notebook(tmp_path, "both.ipynb", parameters="profile = 'quick'\nepochs = 1\nrate = 0.1")
    one = notebook(tmp_path, "one.ipynb", parameters="epochs = 1")
    none = notebook(tmp_path, "none.ipynb", work="epochs = 1")
    assert parameters.assign([one, both, none], {"epochs": 3, "rate": 0.5}, "full") == {
        one: {"epochs": 3},
        both: {"profile": "full", "epochs": 3, "rate": 0.5},
        none: {},
    }
    assert parameters.assign([both], {"profile": "tiny"}, "full") == {both: {"profile": "tiny"}}


def test_a_parameter_that_no_notebook_declares_is_refused_with_the_names_that_there_are(tmp_path):
    path = notebook(tmp_path, "a.ipynb", parameters="profile = 'quick'\nepochs = 1")
    with pytest.raises(parameters.InputError, match="No notebook has a parameter epoch.*are: epochs, profile"):
        parameters.assign([path], {"epoch": 3, "epochs": 3}, "quick")
    broken = tmp_path / "half.ipynb"
    broken.write_text('{"cells": [')
    with pytest.raises(parameters.InputError, match="half.ipynb cannot be read as a notebook"):
        parameters.assign([path, broken], {}, "quick")
