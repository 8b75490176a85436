"""Read a timeline that Horovod wrote: where the time of each training step goes, seen from rank 0.

    HOROVOD_TIMELINE=build/timeline.json HOROVOD_TIMELINE_MARK_CYCLES=1 mpiexec -n 2 python -m helpers.train ...

    steps = timeline.read("build/timeline.json")
    plots.table(timeline.table(steps))
    plots.step_phases(steps[-1].phases)

Writing a timeline costs time, because rank 0 has one more thread that never sleeps. So a timeline shows the order of
the phases and their shares, and `helpers.step_times` measures how long a step takes.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PHASES = ("compute", "negotiate", "queue", "copy in", "all-reduce", "copy out")
_ACTIVITIES = {"MEMCPY_IN_FUSION_BUFFER": "copy in", "MEMCPY_OUT_FUSION_BUFFER": "copy out"}
_MICROSECOND = 1e-6


@dataclass(frozen=True)
class Phase:
    """A part of a step.

    Attributes:
      name: one of `PHASES`. "compute" is all that rank 0 does between two messages: it computes, and under a fixed
        cycle time it waits for the next cycle, because the timeline has no event for a tensor that begins to wait.
        "negotiate" lasts until all ranks have the tensors, so it holds the wait for slower ranks. In "queue" the
        tensors wait for their data, or for other operations. "copy in" and "copy out" move them into the buffer that
        fuses several tensors into one message, and back.
      begin, end: seconds since Horovod's start.
    """

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Step:
    """One training step: all that happened since the end of the step before it.

    Attributes:
      phases: in the order of time. They follow each other without gaps.
      messages: number of all-reduces.
      tensors: number of tensors that these reduced.
    """

    phases: tuple[Phase, ...]
    messages: int
    tensors: int

    @property
    def seconds(self) -> float:
        """The length of the step."""
        return self.phases[-1].end - self.phases[0].begin


@dataclass
class _Message:
    """One all-reduce of the tensors with the numbers `tensors`. Times are in microseconds, `marks` in order."""

    tensors: set[int]
    asked: float
    agreed: float
    begin: float
    end: float
    activities: list[tuple[str, float, float]]


def read(path: Path | str) -> list[Step]:
    """Read the training steps of a timeline.

    A step ends with the last all-reduce before its first tensor is reduced again. Tensors that are reduced in fewer
    than half of the steps, such as those of a barrier, belong to no step, and their time counts as "compute". The first
    step is left out, because nothing marks its beginning. The last one is left out if the run was killed in it.

    Args:
      path: the file that HOROVOD_TIMELINE named. It may break off anywhere. Without HOROVOD_TIMELINE_MARK_CYCLES the
        phase "negotiate" begins only after the first exchange with the other ranks.

    Returns:
      The steps in the order of time, from the second one.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is no timeline of Horovod, or it has fewer than two steps.
    """
    events = _events(Path(path))
    marks = [event["ts"] for event in events if event.get("name") == "CYCLE_START"]
    messages = _fused(_messages(events))
    counts = Counter(tensor for message in messages for tensor in message.tensors)
    regular = {tensor for tensor, count in counts.items() if 2 * count > max(counts.values())}
    grouped: list[list[_Message]] = []
    seen: set[int] = set()
    for message in messages:
        if message.tensors & regular:
            if not grouped or message.tensors & seen:
                grouped.append([])
                seen.clear()
            grouped[-1].append(message)
            seen |= message.tensors
    complete = [group for group in grouped if {t for m in group for t in m.tensors} >= regular]
    if len(complete) < 2:
        raise ValueError(
            f"{path} has {len(complete)} complete training steps, and 2 are needed. Let the run take more steps."
        )
    return [_step(group, before[-1].end, marks) for before, group in zip(complete, complete[1:], strict=False)]


def table(steps: Sequence[Step]) -> list[dict[str, float]]:
    """Return a row for each step: its number from 1 on, the milliseconds of each phase, and their sum."""
    rows = []
    for number, step in enumerate(steps, 1):
        spent = dict.fromkeys(PHASES, 0.0)
        for phase in step.phases:
            spent[phase.name] += 1e3 * (phase.end - phase.begin)
        rows.append({"step": number, **spent, "sum": 1e3 * step.seconds})
    return rows


def _events(path: Path) -> list[Mapping[str, Any]]:
    """Return the events of a timeline as Horovod wrote them, up to where the file breaks off."""
    text = path.read_bytes().decode(errors="replace")
    decoder, place, events = json.JSONDecoder(), 1, []
    while text.startswith("["):
        while text[place : place + 1] in (",", "\n", "\r", " ") and place < len(text):
            place += 1
        try:
            event, place = decoder.raw_decode(text, place)
        except ValueError:
            break  # the end of the list, or of the file
        events.append(event)
    known = all(isinstance(event, dict) and "ph" in event for event in events)
    if not events or not known or "start_time_since_epoch_in_micros" not in events[0].get("args", ()):
        raise ValueError(
            f"{path} is no timeline of Horovod. Set HOROVOD_TIMELINE to a file's name for a run on two ranks or more."
        )
    return [event for event in events if "ts" in event]


def _messages(events: Sequence[Mapping[str, Any]]) -> Iterator[_Message]:
    """Yield what happened to each tensor that was reduced. Horovod numbers tensors as "pid", and nests what it does."""
    opened: dict[int, list[tuple[str, float]]] = {}
    agreements: dict[int, tuple[float, float]] = {}
    activities: dict[int, list[tuple[str, float, float]]] = {}
    for event in events:
        tensor, time, stack = event.get("pid", 0), event["ts"], opened.setdefault(event.get("pid", 0), [])
        if event["ph"] == "B":
            stack.append((event.get("name", ""), time))
        if event["ph"] != "E" or not stack:
            continue
        name, began = stack.pop()
        if name.startswith("NEGOTIATE_"):
            agreements[tensor] = began, time
        elif stack:
            activities.setdefault(tensor, []).append((name, began, time))
        else:
            asked, agreed = agreements.pop(tensor, (began, began))
            parts = activities.pop(tensor, [])
            if name == "ALLREDUCE":
                yield _Message({tensor}, asked, agreed, began, time, parts)


def _fused(messages: Iterator[_Message]) -> list[_Message]:
    """Join the tensors that were reduced together, which are those that were reduced at the same time."""
    joined: list[_Message] = []
    for message in sorted(messages, key=lambda message: message.begin):
        if joined and message.begin < joined[-1].end:
            whole = joined[-1]
            whole.tensors |= message.tensors
            # Until its last tensor has come, a rank still computes.
            whole.asked, whole.agreed = max(whole.asked, message.asked), max(whole.agreed, message.agreed)
            whole.end = max(whole.end, message.end)
        else:
            joined.append(message)
    return joined


def _step(messages: Sequence[_Message], begin: float, marks: Sequence[float]) -> Step:
    """Divide the time from `begin` to the end of the last message into phases."""
    borders: list[tuple[str, float]] = []  # (phase, its end)
    for message in messages:
        place = bisect_right(marks, message.asked)
        borders += [("compute", marks[place - 1] if place else message.asked), ("negotiate", message.agreed)]
        for name, began, ended in sorted(message.activities, key=lambda activity: activity[1]):
            phase = "all-reduce" if name.endswith("ALLREDUCE") else _ACTIVITIES.get(name, "queue")
            borders += [("queue", began), (phase, ended)]
        borders.append(("copy out", message.end))  # and the hand-over to the program
    merged: list[Phase] = []
    before = begin
    for name, end in borders:
        if end <= before:
            continue
        if merged and merged[-1].name == name:
            merged[-1] = Phase(name, merged[-1].begin, end * _MICROSECOND)
        else:
            merged.append(Phase(name, before * _MICROSECOND, end * _MICROSECOND))
        before = end
    return Step(tuple(merged), len(messages), len({t for m in messages for t in m.tensors}))
