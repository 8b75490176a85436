"""Test how the texts of the command line become the parameters of each notebook."""

import json

from cluster.batch import parameters

import pytest

from tests.support.notebooks import notebook


def assigned(path, pairs=(), file=None, sweeps=()):
    """The parameters of one notebook, and the lists of its swept parameters."""
    ((_, given, swept),) = parameters.assign([path], *parameters.parse(pairs, file, sweeps), "quick")
    return given, swept


def test_p_overrides_f_and_sweep_overrides_both(tmp_path):
    path = notebook(tmp_path, "a.ipynb", parameters="epochs = 1\nrate = 0.1\nname = 'x'\nseed = 0")
    file = tmp_path / "values.yaml"
    file.write_text("epochs: 5\nrate: 0.5\nname: é\nsweep:\n  rate: [7]\n  seed: [0, 1]\n", encoding="utf-8")
    given, swept = assigned(path, [("epochs", "3"), ("seed", "9")], file, ["rate=1e-3,0.5"])
    assert given == {"epochs": 3, "rate": 0.001, "name": "é", "seed": 0}
    assert swept == {"rate": [0.001, 0.5], "seed": [0, 1]} and list(swept) == ["rate", "seed"]
    assert parameters.parse() == ({}, {})


@pytest.mark.parametrize("sweep", ["rate", "rate=", "rate=1,1", "rate=1e-3,0.001", "rate=1,1.0"])
def test_a_sweep_needs_different_values(tmp_path, sweep):
    path = notebook(tmp_path, "a.ipynb", parameters="rate = 0.1")
    with pytest.raises(parameters.InputError, match="^--sweep rate: expected different values"):
        assigned(path, sweeps=[sweep])


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_that_an_editor_of_Windows_wrote_is_read(tmp_path, coding):
    path = notebook(tmp_path, "a.ipynb", parameters="city = 'Bern'")
    file = tmp_path / "values.yaml"
    file.write_bytes("city: Zürich\r\n".encode(coding))
    assert assigned(path, file=file) == ({"city": "Zürich"}, {})


def test_the_same_text_is_a_number_or_a_text_as_the_notebook_declares_it(tmp_path):
    texts = notebook(tmp_path, "texts.ipynb", parameters="station = '001'  # a code\ncolour = '#ff0000'\nlink = 'a=b'")
    numbers = notebook(tmp_path, "numbers.ipynb", parameters="station = 1")
    given, swept = parameters.parse([("colour", "#1f77b4"), ("link", "007")], sweeps=["station=007,010"])
    assert parameters.assign([texts, numbers], given, swept, "quick") == [
        (texts, {"station": "007", "colour": "#1f77b4", "link": "007"}, {"station": ["007", "010"]}),
        (numbers, {"station": 7}, {"station": [7, 10]}),
    ]
    file = tmp_path / "values.yaml"
    file.write_text("station: 010\n")
    assert [assigned(path, file=file)[0]["station"] for path in (texts, numbers)] == ["010", 10]


@pytest.mark.parametrize(
    ("declared", "right"),
    [("x: str = None", "007"), ("x: Optional[str] = None", "007"), ("x: str | None = code()", "007"), ("x = None", 7),
     ("x = code()", 7), ("x: float = 1", 7), ("%matplotlib inline\nx = '1'", 7)],
)  # fmt: skip
def test_an_annotation_says_the_type_where_the_default_does_not(tmp_path, declared, right):
    given, _ = assigned(notebook(tmp_path, "a.ipynb", parameters=declared), [("x", "007")])
    assert given == {"x": right} and type(given["x"]) is type(right)


def test_a_value_of_another_type_than_the_default_is_refused_in_one_line(tmp_path):
    path = notebook(tmp_path, "a.ipynb", parameters="epochs = 3")
    with pytest.raises(parameters.InputError, match="^Parameter epochs of a.ipynb: 'three' is a text, but") as error:
        assigned(path, [("epochs", "three")])
    assert "default 3 is a number. Give a number." in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(parameters.InputError, match="^Parameter epochs of a.ipynb: 'many' is a text"):
        assigned(path, sweeps=["epochs=3,many"])


def test_a_line_of_a_file_without_a_value_is_refused(tmp_path):
    path = notebook(tmp_path, "a.ipynb", parameters="colour = 'red'")
    file = tmp_path / "values.yaml"
    file.write_text("colour: #ff0000\n")
    with pytest.raises(parameters.InputError, match="colour of a.ipynb: it has no value.*# begins a comment"):
        assigned(path, file=file)


def test_a_notebook_without_the_metadata_of_its_kernel_has_parameters(tmp_path):
    path = notebook(tmp_path, "a.ipynb", parameters="epochs = 1")
    content = json.loads(path.read_text())
    content["metadata"] = {}
    path.write_text(json.dumps(content))
    assert assigned(path, [("epochs", "3")]) == ({"epochs": 3}, {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- epochs", "expected lines such as 'epochs: 3', found"),
        (b"sweep: 3", "expected 'sweep: {epochs: \\[3, 5\\]}', found 3"),
        (b"sweep:\n  rate: 3", "--sweep rate: expected different values"),
        (b"epochs: [", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        ("city: Zürich".encode("latin-1"), "cannot be read as YAML: .*in UTF-8"),
        ("city: Zürich".encode("utf-16-le"), "cannot be read as YAML: .*in UTF-8"),
        (b"epochs: 3\nepochs: 5", "the key 'epochs' is there twice"),
        (b"010: 3", "the key '010' is not a text"),
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


@pytest.mark.parametrize("text", ["{,", "[draft] a title", "'tis", '"a" and "b"'])
def test_a_value_that_is_no_yaml_is_refused_in_one_line(text):
    with pytest.raises(parameters.InputError, match="^-p or --sweep x: .* not valid YAML.*Put text in quotes") as error:
        parameters.parse([("x", text)])
    assert "\n" not in str(error.value)
    with pytest.raises(parameters.InputError, match="^-p or --sweep x: .* not valid YAML"):
        parameters.parse(sweeps=[f"x={text}"])


def test_each_notebook_gets_the_parameters_that_it_declares(tmp_path):
    both = notebook(tmp_path, "both.ipynb", parameters="profile = 'quick'\nepochs = 1\nrate = 0.1")
    one = notebook(tmp_path, "one.ipynb", parameters="epochs = 1")
    none = notebook(tmp_path, "none.ipynb", work="epochs = 1")
    given, _ = parameters.parse([("epochs", "3"), ("rate", "0.5")])
    assert parameters.assign([one, both, none], given, {}, "full") == [
        (one, {"epochs": 3}, {}),
        (both, {"profile": "full", "epochs": 3, "rate": 0.5}, {}),
        (none, {}, {}),
    ]
    assert assigned(both, [("profile", "tiny")]) == ({"profile": "tiny"}, {})


def test_a_parameter_that_no_notebook_declares_is_refused_with_the_names_that_there_are(tmp_path):
    path = notebook(tmp_path, "a.ipynb", parameters="profile = 'quick'\nepochs = 1")
    with pytest.raises(parameters.InputError, match="No notebook has a parameter epoch.*are: epochs, profile"):
        assigned(path, [("epoch", "3"), ("epochs", "3")])
    broken = tmp_path / "half.ipynb"
    broken.write_text('{"cells": [')
    with pytest.raises(parameters.InputError, match="half.ipynb cannot be read as a notebook"):
        parameters.assign([broken], {}, {}, "quick")


@pytest.mark.parametrize("tags", [None, 5, "parameters"])
def test_tags_that_are_no_list_are_none(tmp_path, tags):
    good, odd = (notebook(tmp_path, f"{name}.ipynb", parameters="a = 1") for name in "ab")
    content = json.loads(odd.read_text())
    content["cells"][0]["metadata"]["tags"] = tags
    odd.write_text(json.dumps(content))
    found = parameters.assign([good, odd], *parameters.parse([("a", "3")]), "quick")
    assert [given for _, given, _ in found] == [{"a": 3}, {}]


@pytest.mark.parametrize(
    "code", ["a = {[1]: 2}", "a = 1" + " + 1" * 9_000, "a = '\ud800'"], ids=["key", "long", "half"]
)
def test_one_notebook_whose_parameters_cannot_be_read_does_not_end_the_batch(tmp_path, code):
    good, bad = notebook(tmp_path, "a.ipynb", parameters="a = 1"), tmp_path / "b.ipynb"
    content = json.loads(good.read_text())
    content["cells"][0]["source"] = code
    bad.write_text(json.dumps(content))
    found = parameters.assign([good, bad], *parameters.parse([("a", "3")]), "quick")
    assert found[0][1] == {"a": 3}
