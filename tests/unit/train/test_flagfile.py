"""Flagfiles as people edit them mean what their lines say."""

import codecs

from helpers.train import flags

import pytest
from absl import flags as absl_flags

pytestmark = pytest.mark.usefixtures("fresh_flags")
LINES = ["# my run", "--epochs=3", "", "--output=runs", "  --augment=true", "// the end"]


def parse(file, content):
    file.write_bytes(content)
    rest = flags.FLAGS(["helpers.train", f"--flagfile={file}"])
    assert len(rest) == 1
    return flags.FLAGS


@pytest.mark.parametrize("end", ["\n", "\r\n", " \t\r\n"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_line_ends_and_marks_of_editors_change_nothing(tmp_path, mark, encoding, end):
    for lines in (LINES, LINES[1:]):
        found = parse(tmp_path / "my.cfg", mark + end.join(lines).encode(encoding))
        assert (found.epochs, found.output, found.augment) == (3, "runs", True)


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("--output=runs  # of Monday", "runs"),
        ("--output=runs // of Monday", "runs"),
        ("--output = runs", "runs"),
        ("--output='runs'# 1'", "runs'# 1"),
        ("--output= 'runs # 1'  # the first", "runs # 1"),
        ('--output=" runs"', " runs"),
        ("--output=runs#1", "runs#1"),
        ("--output=d'été # d'hiver", "d'été"),
        ("--output=it's 'here'", "it's 'here'"),
        ("--output=a=b", "a=b"),
        ("--output=  # nothing", ""),
        ("--augment  # --output=b", None),
    ],
)
def test_a_comment_after_a_value_is_none_of_it_and_quotes_keep_the_rest(tmp_path, line, output):
    assert parse(tmp_path / "my.cfg", line.encode()).output == output


def test_a_name_on_the_command_line_is_taken_as_it_is():
    flags.FLAGS(["helpers.train", "--output= 'a' # b"])
    assert flags.FLAGS.output == " 'a' # b"


def test_flagfiles_within_flagfiles_and_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "inner [1].cfg").write_text("--epochs=7\n--seed=1\n")
    (tmp_path / "outer.cfg").write_text("--epochs=6\n--flagfile=~/inner [1].cfg  # later lines count\n--seed=2\n")
    flags.FLAGS(["helpers.train", "--flagfile", "~/outer.cfg"])
    assert (flags.FLAGS.epochs, flags.FLAGS.seed) == (7, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("--output=Läufe".encode("latin-1"), "not a text in UTF-8"),
        ("--epochs=3".encode("utf-16-le"), "null characters"),
        (b"--epochs=3\n--flagfile=my.cfg", "includes itself"),
        (b"--flagfile=nowhere.cfg", "nowhere.cfg"),
        (b"--flagfile=~nobody-of-this-name/my.cfg", "~nobody-of-this-name"),
    ],
)
def test_a_flagfile_that_cannot_be_read_is_named(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(absl_flags.Error, match=message):
        parse(tmp_path / "my.cfg", content)
