"""Test that a value is what the same text is in YAML 1.2, and that it has the type of the notebook's default."""

import math

from cluster.batch import values

import pytest


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-2", -2), ("010", 10), ("0o17", 15), ("0x1F", 31), ("0.5", 0.5), ("1e-3", 0.001), ("1E-3", 0.001),
     ("2.5e4", 25000.0), ("-2E+4", -2e4), (".5e1", 5.0), ("-.inf", -math.inf), ("true", True), ("FALSE", False),
     ("null", None), ("~", None), ("NO", "NO"), ("on", "on"), ("yes", "yes"), ("1e", "1e"), ("x1e3", "x1e3"),
     ("1_000", "1_000"), ("2024-01-05", "2024-01-05"), ("2026-13-45", "2026-13-45"), ("1:30", "1:30"),
     ("Bayes: a start", "Bayes: a start"), ("#1f77b4", "#1f77b4"), ("issue #3, again", "issue #3, again"),
     ("it's", "it's"), ("*.csv", "*.csv"), ("", ""), ("'3'", "3"), ('"a: b"', "a: b"), ("'true'", "true"),
     ("[1e-3, 1E-4, 010, NO, 1:30]", [0.001, 0.0001, 10, "NO", "1:30"]), ('{"a":[1, null]}', {"a": [1, None]}),
     ('"\\ud83d\\ude00"', "\U0001f600")],
)  # fmt: skip
def test_a_value_is_what_it_is_in_yaml_1_2(text, value):
    found = values.convert(values.read(text))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [("007", "001", "007"), ("1e-3", "x", "1e-3"), ("true", "x", "true"), ("'007'", "x", "007"), ("null", "x", None),
     ("[007, '1', null]", ["001"], ["007", "1", None]), ("{a: 010, b: 010}", {"a": "x"}, {"a": "010", "b": 10}),
     ("3", 0.5, 3), ("0.5", 1, 0.5), ("[8]", (1, 2), [8]), ("[]", [1], []), ("null", 3, None), ("NO", None, "NO")],
)  # fmt: skip
def test_a_text_stays_as_typed_where_the_default_is_a_text(text, default, value):
    found = values.convert(values.read(text), default)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "default", "said"),
    [("three", 3, "'three' is a text, but the notebook's default 3 is a number"), ("'3'", 0.5, "'3' is a text"),
     ("", 3, "'' is a text"), ("true", 3, "True is true or false"), ("on", False, "'on' is a text"),
     ("1", True, "1 is a number, but the notebook's default True is true or false"), ("64", [64], "64 is a number"),
     ("[1, x]", [3], "'x' is a text"), ("[a]", "x", r"\['a'\] is a list"), ("[1]", {"a": 1}, "is a list"),
     ("{1: a}", None, "the key '1' is not a text"), ("{a: 1, a: 2}", None, "the key 'a' is there twice"),
     ("[!!timestamp 2024-01-05]", None, "no type"), ("[!!int x]", None, "invalid literal"),
     ("1e999", 0.5, "larger than any float"), ("Z\udcfcrich", "x", "not valid Unicode")],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(text, default, said):
    with pytest.raises(ValueError, match=said) as error:
        values.convert(values.read(text), default)
    assert "\n" not in str(error.value)


def test_commas_separate_values_outside_of_brackets_and_quotes():
    nodes = values.split("1e-3, 'a, b',[1, 2],{a: 1, b: 2},#aaa,it's,x: y")
    assert [values.convert(node) for node in nodes] == [
        0.001, "a, b", [1, 2], {"a": 1, "b": 2}, "#aaa", "it's", "x: y",
    ]  # fmt: skip
    for text in ("1,,2", "1,", ",a"):
        with pytest.raises(ValueError, match="nothing before or after a comma"):
            values.split(text)
    assert [values.convert(node) for node in values.split("'',a")] == ["", "a"]
