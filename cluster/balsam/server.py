"""The way to Balsam's server: by the Python of Balsam's own environment, as its packages do not fit the course's."""

import json
import os
import subprocess
from pathlib import Path

PYTHON = "BNN_BALSAM_PYTHON"
APPS = Path(__file__).with_name("apps.py")
PATIENCE = 120  # seconds for one question


class BalsamError(Exception):
    """Balsam is missing, cannot be reached, or refuses."""


def ask(question, **details):
    """The answer of `apps.py` to a question: `register` or `report`.

    Raises:
      BalsamError: with one line for the user.
    """
    python = os.environ.get(PYTHON, "")
    if not python:
        raise BalsamError(f"{PYTHON} is not set: it names the Python of the environment that Balsam is in")
    try:
        done = subprocess.run(
            [python, str(APPS)], input=json.dumps({"ask": question, **details}), capture_output=True, text=True,
            timeout=PATIENCE, env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
    except OSError as error:
        raise BalsamError(f"{PYTHON}={python} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise BalsamError(f"Balsam's server did not answer within {PATIENCE} seconds") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        if "No module named 'balsam'" in last:
            last = f"{PYTHON}={python} has no Balsam: {python} -m pip install --pre balsam"
        raise BalsamError(last)
    return json.loads(done.stdout)
