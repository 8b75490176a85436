"""Ask Balsam's server. Balsam has an environment of its own, because its packages conflict with the course's."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

PYTHON = "BNN_BALSAM_PYTHON"
APPS = Path(__file__).with_name("apps.py")
_ANSWER_SECONDS = 120  # limit for one question


class BalsamError(Exception):
    """Balsam is missing, cannot be reached, or refuses the request. The message is one line for the user."""


def ask(question: str, **details: Any) -> Any:
    """Ask `apps.py` a question.

    Args:
      question: `register` or `report`, the name of the function in `apps.py`.
      details: `site` and the function's other arguments, as values that JSON can hold.

    Returns:
      What the function returned.

    Raises:
      BalsamError: there is no answer.
    """
    python = os.environ.get(PYTHON, "")
    if not python:
        raise BalsamError(f"{PYTHON} is not set. Set it to the Python of the environment in which Balsam is installed.")
    try:
        done = subprocess.run(
            [python, str(APPS)], input=json.dumps({"ask": question, **details}), capture_output=True, text=True,
            timeout=_ANSWER_SECONDS, env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
    except OSError as error:
        raise BalsamError(f"{PYTHON}={python} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise BalsamError(f"Balsam's server did not answer within {_ANSWER_SECONDS} seconds") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        if "No module named 'balsam'" in last:
            last = f"{PYTHON}={python} has no Balsam: {python} -m pip install --pre balsam"
        raise BalsamError(last)
    return json.loads(done.stdout)
