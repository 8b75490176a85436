"""The all-reduce on simulated networks: formulae, fits, platforms and what is said when something is missing."""

import os
import subprocess
import sys
import time

from cluster.simulate import __main__ as simulate
from cluster.simulate import costs, link, namespaces, smpi, validate
from helpers import ROOT, files

import numpy as np
import psutil
import pytest

RESULTS = ROOT / "notebooks" / "results"
NODES = (2, 4, 6, 8)


def published(model):
    """Extra time per step, in units of a step, from the speed-ups of Theta."""
    speed = {
        row["nodes"]: row["speed_up"]
        for row in files.read_csv(RESULTS / "theta_published.csv")
        if row["model"] == model
    }
    return np.array([nodes / speed[nodes] - 1 for nodes in NODES])


def test_formulae_count_what_a_simple_simulation_of_the_messages_counts():
    """Each algorithm is played for 8 ranks: what rank 0 sends in each step, and what it adds."""
    parts = 8
    ring_steps = [1 / parts] * (2 * (parts - 1))
    halving = [1 / 2, 1 / 4, 1 / 8]
    for cost, sent, added in (
        (costs.ring(8), ring_steps, ring_steps[: parts - 1]),
        (costs.rabenseifner(8), halving + halving[::-1], halving),
        (costs.recursive_doubling(8), [1, 1, 1], [1, 1, 1]),
        (costs.reduce_broadcast(8), [1] * 6, [1] * 3),
    ):
        assert (cost.messages, cost.bytes, cost.sums) == pytest.approx((len(sent), sum(sent), sum(added)))


def test_two_ranks_cannot_tell_a_ring_from_rabenseifner():
    assert costs.ring(2) == costs.Cost(2, 1.0, 0.5) == costs.rabenseifner(2)


def test_a_cost_in_seconds():
    assert costs.ring(4).seconds(1000, alpha=1.0, beta=0.01, gamma=0.001) == pytest.approx(6 + 15 + 0.75)


def test_the_published_points_follow_the_logarithm():
    """The numbers are those of an independent least-squares fit."""
    extra = published("BNN")
    assert extra == pytest.approx([0.117, 0.216, 0.277, 0.318], abs=5e-4)
    ring, logarithm = (costs.fit(name, NODES, extra) for name in ("ring", "constant + logarithm"))
    assert (ring.rms, logarithm.rms) == pytest.approx((0.0039, 0.0008), abs=5e-5)
    assert logarithm.parameters == pytest.approx({"constant": 0.016, "log2": 0.100}, abs=6e-4)
    at_scale = [4392 / (1 + costs.predict(name, fit.parameters, [4392])[0]) for name, fit in
                (("ring", ring), ("constant + logarithm", logarithm))]  # fmt: skip
    assert at_scale == pytest.approx([48, 1970], rel=0.01)


def test_no_parameter_is_negative():
    """Two points of different experiments have given a negative time per byte."""
    fitted = costs.fit("Rabenseifner", [2, 8], [0.0740, 0.3115])
    assert min(fitted.parameters.values()) >= 0


def test_a_fit_finds_the_parameters_that_made_the_times():
    times = costs.predict("ring", {"message": 3e-6, "bytes": 2e-4}, [2, 3, 8, 100])
    found = costs.fit("ring", [2, 3, 8, 100], times)
    assert found.parameters == pytest.approx({"message": 3e-6, "bytes": 2e-4}) and found.rms < 1e-12


def test_a_fit_of_one_rank_is_refused():
    with pytest.raises(ValueError, match="2 ranks or more"):
        costs.fit("ring", [1, 2], [0, 1])


def test_theta_waited_for_horovods_coordination_most():
    rows = [row for row in files.read_csv(RESULTS / "theta_profile.csv") if row["rank"] == 0]
    gradients = sum(row["seconds"] for row in rows if row["what"] == "gradients")
    assert gradients / 250 * 1e3 == pytest.approx(1.04, abs=0.01)
    assert next(row["seconds"] for row in rows if row["bytes"] == 8) == 8.62


@pytest.mark.parametrize("name", sorted(path.stem for path in simulate.PLATFORMS.glob("*.xml")))
def test_a_platform_has_its_sources_and_its_hosts(name):
    text, hosts, attributes = simulate.platform(name, 0.5, 2)
    given = simulate.platform(name, 1, 1)[2]
    assert len(set(hosts)) == len(hosts) and hosts[0] == "node-0"
    assert f'bw="{attributes["bw"]}"' in text and float(given["bw"].removesuffix("GBps")) == 2 * float(
        attributes["bw"].removesuffix("GBps")
    )
    if "topo_parameters" in given:
        groups, chassis, routers, nodes = (int(part.split(",")[0]) for part in given["topo_parameters"].split(";"))
        assert groups * chassis * routers * nodes == len(hosts)
        assert chassis * routers >= groups  # SimGrid connects a router to no more than one other group
    said = (simulate.PLATFORMS / f"{name}.xml").read_text()
    assert "assumed" in said and (name == "ethernet" or "arXiv" in said or "WP-Aries01-1112" in said)


def test_an_unknown_platform_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="mars is no platform.*aurora, ethernet, perlmutter, polaris, theta"):
        simulate.platform("mars", 1, 1)


@pytest.mark.parametrize(
    "wrong", [{"bw": None}, {"lat": "fast"}, {"radical": "0,4"}, {"radical": None}, {"suffix": None}]
)
def test_a_platform_file_that_lacks_something_is_refused(tmp_path, wrong):
    given = {"id": "c", "prefix": "n", "suffix": "", "radical": "0-3", "bw": "1GBps", "lat": "1us"} | wrong
    words = " ".join(f'{key}="{value}"' for key, value in given.items() if value is not None)
    (tmp_path / "mine.xml").write_text(f"<platform><cluster {words}/></platform>")
    with pytest.raises(ValueError, match=r"mine.xml must have prefix, suffix, bw, lat and a radical"):
        simulate.platform(str(tmp_path / "mine.xml"), 1, 1)


def test_a_table_that_is_a_folder_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(smpi, "compiled", lambda folder: folder)
    assert simulate.main(["--output", str(tmp_path)]) == 2 and "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["2,1", "0", "two", "2,1,0.1,3", "2.5"])
def test_a_setting_of_another_form_is_refused(setting):
    with pytest.raises(ValueError, match="is no setting. Give RANKS"):
        validate.measured(setting)


def test_placements():
    hosts = [f"node-{number}" for number in range(100)]
    assert simulate.places(hosts, 3, "contiguous", 0) == hosts[:3]
    shuffled = simulate.places(hosts, 50, "shuffled", 7)
    assert shuffled == simulate.places(hosts, 50, "shuffled", 7) != simulate.places(hosts, 50, "shuffled", 8)
    assert len(set(shuffled)) == 50


def test_what_the_simulation_prints_is_read():
    assert smpi.parse("400 0.25 1.5\n8 0.5 2\n", 2) == [(400, 0.25, 1.5), (8, 0.5, 2.0)]
    for output in ("", "400 0.25 1.5\n", "400 fast\n"):
        with pytest.raises(smpi.SimulationError, match="printed"):
            smpi.parse(output, 2)


def test_without_simgrid_one_line_says_which_package_brings_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert simulate.main(["--nodes", "2", "--output", str(tmp_path / "table.csv")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "smpicc is not on the PATH" in said and "libsimgrid-dev" in said


def test_without_root_namespaces_are_refused(monkeypatch):
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    assert namespaces.missing() == "only root can make network namespaces"


def test_packets_wait_for_each_other_at_both_ends():
    switch = link.Switch(3, delay=1e-3, rate=8e6)  # a byte in a microsecond
    size = 1000 - 38
    assert switch.arrival(0.0, 0, 1, size) == pytest.approx(2e-3)  # its delay, and its length
    assert switch.arrival(0.0, 0, 1, size) == pytest.approx(3e-3)  # behind the first one
    assert switch.arrival(0.0, 2, 1, size) == pytest.approx(4e-3)  # another sender, the same receiver
    assert switch.arrival(0.0, 2, 0, size) == pytest.approx(3e-3)  # another receiver: only its sender was busy
    assert link.Switch(2, 1e-3, 0).arrival(5.0, 0, 1, size) == pytest.approx(5.001)


def test_the_committed_validation_is_within_its_bar():
    rows = files.read_csv(RESULTS / "simulated_validation.csv")
    errors = [abs(row["error_percent"]) for row in rows if not row["calibration"]]
    assert {row["ranks"] for row in rows} == {2, 4, 8} and {min(validate.SIZES), max(validate.SIZES)} <= {
        row["bytes"] for row in rows
    }
    assert np.median(errors) <= 20
    for row in rows:
        assert row["error_percent"] == pytest.approx(100 * (row["simulated_ms"] / row["measured_ms"] - 1), abs=0.06)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sum nan", "must be numbers of 0 or more"),
        ("--overhead -1", "must be numbers of 0 or more"),
        ("--timeout -1", "more than 0 seconds"),
        ("--timeout inf", "at most a million"),
        ("--bytes 4 6", "multiples of 4"),
        ("--bytes 0", "multiples of 4"),
    ],
)
def test_costs_that_cannot_be_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as status:
        simulate.main(words.split())
    assert status.value.code == 2 and message in capsys.readouterr().err


def test_more_nodes_than_any_platform_has_are_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(smpi, "compiled", lambda folder: folder)
    words = ["--platforms", "theta", "ethernet", "--nodes", "4", "100000", "--output", str(tmp_path / "new.csv")]
    assert simulate.main(words) == 2
    assert "no platform has 100,000 nodes" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_simulation_that_takes_too_long_leaves_no_process(tmp_path):
    (tmp_path / "run").write_text("#!/bin/sh\nsleep 60 &\necho $! > child\nwait\n")
    (tmp_path / "run").chmod(0o755)
    with pytest.raises(subprocess.TimeoutExpired):
        smpi._run([str(tmp_path / "run")], str(tmp_path), 1)
    child = int((tmp_path / "child").read_text())
    time.sleep(0.5)  # until the system has noticed
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_sweep_that_is_ended_leaves_no_process_and_no_file(tmp_path):
    """Programs of these names stand in for SimGrid's."""
    programs, scratch = tmp_path / "programs", tmp_path / "scratch"
    for folder in (programs, scratch):
        folder.mkdir()
    child = tmp_path / "child"
    for name, text in (
        ("smpicc", "exit 0"),
        ("smpirun", f"sleep 60 & echo $! > {child}.new; mv {child}.new {child}; wait"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    words = ["--platforms", "theta", "--nodes", "2", "--workers", "1", "--output", str(tmp_path / "table.csv")]
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(scratch)}
    process = subprocess.Popen([sys.executable, "-m", "cluster.simulate", *words], cwd=ROOT, env=environment)
    try:
        until = time.monotonic() + 60
        while not child.exists() and time.monotonic() < until:
            time.sleep(0.1)
        process.terminate()
        assert process.wait(30) == 128 + 15
    finally:
        process.kill()
    number = int(child.read_text())
    assert not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    assert not list(scratch.iterdir())
