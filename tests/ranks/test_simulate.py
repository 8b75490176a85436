"""A small simulation, and all-reduces on hosts in network namespaces. Each test says what it lacks."""

import subprocess
import sys

from cluster.simulate import __main__ as simulate
from cluster.simulate import costs, namespaces, ranks, smpi
from helpers import files

import pytest

needs_simgrid = pytest.mark.skipif(smpi.missing() is not None, reason=f"{smpi.missing()}")
needs_hosts = pytest.mark.skipif(namespaces.missing() is not None, reason=f"{namespaces.missing()}")


@needs_simgrid
def test_a_simulation_agrees_with_the_formula(tmp_path):
    """On a switch without contention, recursive doubling on 4 ranks costs two messages and two sums."""
    program = smpi.compiled(tmp_path)
    hosts = [f"node-{number}" for number in range(4)]
    prices = smpi.Costs(sum=1e-9, eager_bytes=1 << 30)
    platform = smpi.cluster(4, delay=1e-3, rate=8e9)  # a byte in a nanosecond
    first, second = smpi.simulate(program, platform, hosts, "rdb", [1_000_000, 400], prices, compute=-1)
    assert first[:2] == (1_000_000, pytest.approx(2 * (1e-3 + 1e-3 + 1e-3), rel=0.01))
    assert second[:2] == (400, pytest.approx(2 * 1e-3, rel=0.01))
    (step,) = smpi.simulate(program, platform, hosts, "rdb", [400], prices, compute=0.5)
    assert step[2] == pytest.approx(0.502, rel=1e-3)


@needs_simgrid
@pytest.mark.parametrize("name", [name for name in costs.ALGORITHMS if name in simulate.ALGORITHMS])
def test_every_algorithm_takes_the_time_of_its_sums(name, tmp_path):
    """SMPI's rab took none, because it never called the operation."""
    program, hosts = smpi.compiled(tmp_path), [f"node-{number}" for number in range(4)]
    platform, size = smpi.cluster(4, delay=0, rate=8e15), 400_000
    arguments = (program, platform, hosts, simulate.ALGORITHMS[name], [size])
    (found,) = smpi.simulate(*arguments, smpi.Costs(sum=1e-6, eager_bytes=1 << 30), compute=-1)
    assert found[1] == pytest.approx(costs.ALGORITHMS[name](4).sums * size * 1e-6, rel=0.01)


@needs_simgrid
def test_a_sweep_writes_its_assumptions(tmp_path):
    output = tmp_path / "table.csv"
    small = tmp_path / "small.xml"
    small.write_text((simulate.PLATFORMS / "ethernet.xml").read_text().replace("0-1023", "0-2"))
    words = ["--platforms", "ethernet", str(small), "--nodes", "2", "4", "--bytes", "4000", "--algorithms", "ring"]
    assert simulate.main([*words, "--networks", "contiguous", "--output", str(output)]) == 0
    rows = sorted(files.read_csv(output), key=lambda row: row["platform"] != "ethernet")
    assert [row["nodes"] for row in rows] == [2, 4, 2]  # the smaller platform has three hosts
    assert rows[0]["link_rate"] == "1.25GBps" and 0 < rows[0]["milliseconds"] < rows[1]["milliseconds"]


@needs_simgrid
def test_a_simulation_that_takes_too_long_is_ended(tmp_path):
    words = ["--platforms", "ethernet", "--nodes", "256", "--bytes", "4000", "--algorithms", "ring", "--timeout", "0.2"]
    assert simulate.main([*words, "--networks", "contiguous", "--output", str(tmp_path / "table.csv")]) == 1
    assert "not simulated within 0.2 seconds" in files.read_csv(tmp_path / "table.csv")[0]["note"]


@needs_hosts
@pytest.mark.parametrize("delay", [0.0, 5e-3])
def test_ranks_on_two_hosts_reach_each_other_through_the_network(delay):
    with namespaces.network(2, delay) as hosts:
        rows = ranks.measure(2, "recursive doubling", [1024], hosts, ("allreduce", "message"), 0.05, 60, 3)
        names = [host.name for host in hosts]
    assert [row["what"] for row in rows] == ["allreduce", "message"]
    assert all(row["low"] >= delay for row in rows)
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in left for name in names)


@needs_hosts
def test_no_process_outlives_its_host():
    with namespaces.network(1) as (host,):
        process = subprocess.Popen(host.command(sys.executable, "-c", "import time; time.sleep(60)"))
        said = subprocess.run(
            host.command("cat", "/proc/sys/kernel/hostname"), capture_output=True, text=True, timeout=20
        )
        assert said.stdout.strip() == host.name
    assert process.wait(timeout=20) != 0
