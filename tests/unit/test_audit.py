"""make audit asks for every locked version, and tells an answer from silence."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands in for uv, and so for pip-audit: keeps its arguments and files, and answers as $ANSWER says.
UV = r"""#!/bin/bash
echo "$@" >>"$SEEN/arguments"
while [ $# -gt 0 ]; do
    if [ "$1" = --requirement ]; then cat "$2" >>"$SEEN/versions"; sort "$2" | cut -d= -f1 | uniq -d >>"$SEEN/twice"; fi
    shift
done
case $ANSWER in
    clean) echo "No known vulnerabilities found" >&2 ;;
    found) echo "horovod 0.28.1 PYSEC-1"; echo "Found 1 known vulnerability" >&2; exit 1 ;;
    silence) echo "Failed to resolve the host" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def audit(tmp_path):
    (tmp_path / "uv").write_text(UV)
    (tmp_path / "uv").chmod(0o755)

    def run(answer):
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(tmp_path), "ANSWER": answer}
        command = ["bash", ROOT / "cluster" / "setup" / "audit.sh"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)

    return run, tmp_path


def test_every_locked_version_is_asked_for_once(audit):
    run, seen = audit
    done = run("clean")
    assert done.returncode == 0 and re.search(r"knows no vulnerability of the \d+ locked versions", done.stdout)
    lock = re.findall(r"^[a-z0-9][a-z0-9._-]*==[^\s;]+", (ROOT / "requirements.lock").read_text(), flags=re.M)
    assert sorted((seen / "versions").read_text().split()) == sorted(lock)
    assert not (seen / "twice").read_text(), "pip-audit refuses a file that names a package twice"
    assert "--strict" in (seen / "arguments").read_text(), "or packages that the index does not know would pass"


def test_what_is_found_is_shown(audit):
    run, _ = audit
    done = run("found")
    assert done.returncode == 1
    assert "PYSEC-1" in done.stdout and "SECURITY.md" in done.stdout


def test_silence_is_not_good_news(audit):
    run, seen = audit
    done = run("silence")
    assert done.returncode == 2
    assert "no database of vulnerabilities answered" in done.stderr and "Failed to resolve the host" in done.stderr
    assert len((seen / "arguments").read_text().splitlines()) == 2, "both services are asked"
