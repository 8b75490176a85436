"""Horovod's timeline is read into steps and their phases, also where it breaks off."""

import json

from helpers import timeline

import pytest

START = [
    {"name": "process_name", "ph": "M", "pid": 0, "args": {"start_time_since_epoch_in_micros": 1}},
    {"name": "process_sort_index", "ph": "M", "pid": 0, "args": {"sort_index": 0}},
]


def event(phase, time, tensor, name=None):
    return {"ph": phase, "ts": time, "pid": tensor} | ({"name": name} if name else {})


def reduced(tensors, mark, asked, agreed, *activities, end, marked=True):
    """The events of one all-reduce; an activity is (name, begin, end), in microseconds."""
    found = [{"ph": "i", "name": "CYCLE_START", "ts": mark, "s": "g"}] * marked
    for tensor in tensors:
        found += [event("B", asked, tensor, "NEGOTIATE_ALLREDUCE"), event("E", agreed, tensor)]
    for tensor in tensors:
        found += [event("B", agreed + 1, tensor, "ALLREDUCE")]
    for name, begin, finish in activities:
        found += [event("B", begin, tensor, name) for tensor in tensors]
        found += [event("E", finish, tensor) for tensor in tensors]
    return found + [event("E", end, tensor) for tensor in tensors]


def step(at, tensors=(1, 2), marked=True):
    """100 us from `at`: 40 compute, 20 negotiate, 2 queue, 5 copy in, 20 all-reduce, 5 copy out and 8 hand over."""
    copies = ("MEMCPY_IN_FUSION_BUFFER", at + 62, at + 67), ("MEMCPY_OUT_FUSION_BUFFER", at + 87, at + 92)
    parts = copies[0], ("MPI_ALLREDUCE", at + 67, at + 87), copies[1]
    return reduced(tensors, at + 40, at + 50, at + 60, *parts, end=at + 100, marked=marked)


@pytest.fixture
def write(tmp_path):
    def write(events, text=None):
        path = tmp_path / "timeline.json"
        path.write_text("[\n" + ",\n".join(map(json.dumps, [*START, *events])) + "]" if text is None else text)
        return path

    return write


EXPECTED = {  # milliseconds
    "compute": 0.04,
    "negotiate": 0.02,
    "queue": 0.002,
    "copy in": 0.005,
    "all-reduce": 0.02,
    "copy out": 0.013,
}


def test_a_step_is_divided_into_phases_that_fill_it(write):
    steps = timeline.read(write([*step(0), *step(100), *step(200)]))
    assert [(s.messages, s.tensors) for s in steps] == [(1, 2)] * 2
    rows = timeline.table(steps)
    assert [row.pop("step") for row in rows] == [1, 2]
    for row in rows:
        assert row == pytest.approx(EXPECTED | {"sum": 0.1})
    for one in steps:
        assert [p.name for p in one.phases] == list(timeline.PHASES)
        assert all(a.end == b.begin for a, b in zip(one.phases, one.phases[1:], strict=False))
    assert steps[0].phases[0].begin == pytest.approx(1e-4) and steps[-1].phases[-1].end == pytest.approx(3e-4)


def test_without_marks_the_exchange_with_the_ranks_counts_as_compute(write):
    (row,) = timeline.table(timeline.read(write([*step(0, marked=False), *step(100, marked=False)])))
    assert row["compute"] == pytest.approx(0.05) and row["negotiate"] == pytest.approx(0.01)


def test_messages_that_are_not_fused_make_one_step_and_a_barrier_makes_none(write):
    barrier = reduced([9], 410, 410, 412, ("MPI_ALLREDUCE", 413, 420), end=421)
    events = [*step(0, [1]), *step(100, [2]), *step(200, [1]), *step(300, [2]), *barrier]
    events += [*step(500, [1]), *step(600, [2]), *step(700, [1]), *step(800, [2])]
    steps = timeline.read(write(events))
    assert [(s.messages, s.tensors) for s in steps] == [(2, 2)] * 3
    assert [round(1e6 * s.seconds) for s in steps] == [200, 300, 200]
    row = timeline.table(steps)[1]
    assert row["all-reduce"] == pytest.approx(0.04) and row["compute"] == pytest.approx(0.1 + 0.04 + 0.04)


def test_a_file_that_breaks_off_gives_the_steps_before(write):
    """Wherever it is cut, there are no steps that did not happen, and there is no other error."""
    path = write([*step(0), *step(100), *step(200)])
    text, found = path.read_text(), set()
    for length in range(len(text), 0, -37):
        path.write_text(text[:length])
        try:
            rows = timeline.table(timeline.read(path))
        except ValueError as error:
            assert "complete training steps" in str(error) or "is no timeline" in str(error)
            rows = []
        for row in rows:
            assert row.pop("step") and row == pytest.approx(EXPECTED | {"sum": 0.1})
        found.add(len(rows))
    assert found == {0, 1, 2}


@pytest.mark.parametrize("text", ["", "[", "no JSON", "[1, 2]", "{}", '[{"ph": "B"}]', '[{"args": {}, "ph": "M"}]'])
def test_a_file_that_is_no_timeline_is_named(write, text):
    with pytest.raises(ValueError, match="timeline.json is no timeline of Horovod. Set HOROVOD_TIMELINE"):
        timeline.read(write([], text))


def test_other_errors_say_what_to_do(write, tmp_path):
    with pytest.raises(ValueError, match="has 1 complete training steps, and 2 are needed"):
        timeline.read(write(step(0)))
    with pytest.raises(ValueError, match="has 0 complete"):
        timeline.read(write([]))
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\xff\xfe[")
    with pytest.raises(ValueError, match="is no timeline"):
        timeline.read(path)
    with pytest.raises(FileNotFoundError):
        timeline.read(tmp_path / "absent.json")
