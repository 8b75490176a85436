"""Pass packets between network namespaces with a delay and a rate, as a switch with long cables would.

`python -m cluster.simulate.link DELAY RATE NAMESPACE...` gives each namespace a device `eth0`, says "ready", and runs
until it is ended or its standard input is closed. It takes the place of netem, which many kernels lack.

The model of the network is that of the simulation: each host has one cable to the switch, which carries RATE bits a
second in each direction. A packet is on its way for DELAY seconds and its length over RATE. Packets that meet wait for
each other at the sender's end and at the receiver's, no packet is lost, and the switch itself costs no time.
"""

import fcntl
import gc
import heapq
import os
import select
import struct
import subprocess
import sys
import time
from contextlib import suppress

# linux/if_tun.h. The kernel hands over up to 64 KB of a stream in one packet, with a header that says where to cut it.
_SET_DEVICE, _SET_OFFLOAD = 0x400454CA, 0x400454D0
_TUN_WITH_HEADER = 0x0001 | 0x1000 | 0x4000  # IFF_TUN, IFF_NO_PI, IFF_VNET_HDR
_CHECKSUM_AND_SEGMENTS = 0x01 | 0x02 | 0x04  # TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6
_HEADER = 10  # bytes of struct virtio_net_hdr
_LONGEST = 1 << 17
_FRAME, _PACKET = (
    38,
    1500,
)  # bytes that Ethernet adds to a packet (preamble, header, checksum, gap), and the longest packet
_PRIORITY = 10


def device(name: str) -> int:
    """Make a device in a namespace, and return the descriptor at which its packets are read and written."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    temporary = f"bnn{os.getpid() % 1_000_000}.{descriptor}"
    fcntl.ioctl(descriptor, _SET_DEVICE, struct.pack("16sH22x", temporary.encode(), _TUN_WITH_HEADER))
    fcntl.ioctl(descriptor, _SET_OFFLOAD, _CHECKSUM_AND_SEGMENTS)
    subprocess.run(["ip", "link", "set", temporary, "netns", name, "name", "eth0"], check=True, timeout=20)
    return descriptor


class Switch:
    """When packets arrive.

    Args:
      hosts: number of hosts.
      delay: seconds.
      rate: bits a second, 0 for no limit.
    """

    def __init__(self, hosts: int, delay: float, rate: float) -> None:
        self.delay, self.seconds_per_byte = delay, 8 / rate if rate else 0.0
        self.sent, self.received = [0.0] * hosts, [0.0] * hosts

    def arrival(self, now: float, source: int, target: int, size: int) -> float:
        """Return when the last bit of a packet is there, and remember that the cables are busy until then.

        Args:
          now: seconds, the time at which the source has the packet ready.
          source: index of the host.
          target: likewise.
          size: bytes of the IP packet, which may stand for several segments of TCP.
        """
        duration = (size + _FRAME * -(-size // _PACKET)) * self.seconds_per_byte
        start = max(now, self.sent[source])
        self.sent[source] = start + duration
        # The first bit can leave the switch before the last has come, because both cables have the same rate.
        self.received[target] = max(start + self.delay, self.received[target]) + duration
        return self.received[target]


def forward(descriptors: list[int], switch: Switch) -> None:
    """Pass packets on until standard input is closed. Host i has the address that ends in i + 1."""
    waiting: list[tuple[float, int, int, bytes]] = []  # time of arrival, order, target, packet
    order = 0
    source_of = {descriptor: index for index, descriptor in enumerate(descriptors)}
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, target, packet = heapq.heappop(waiting)
            with suppress(OSError):  # the device is down while the network is taken away
                os.write(descriptors[target], packet)
            now = time.monotonic()
        pause = max(waiting[0][0] - now, 0) if waiting else None
        for descriptor in select.select([0, *descriptors], [], [], pause)[0]:
            if not descriptor:
                return
            source = source_of[descriptor]
            for _ in range(16):
                try:
                    packet = os.read(descriptor, _LONGEST)
                except OSError:
                    break
                target = packet[_HEADER + 19] - 1 if packet[_HEADER] >> 4 == 4 else -1
                if 0 <= target < len(descriptors):
                    order += 1
                    when = switch.arrival(time.monotonic(), source, target, len(packet) - _HEADER)
                    heapq.heappush(waiting, (when, order, target, packet))


def main(delay: str, rate: str, *names: str) -> None:
    """Make the devices and pass packets on."""
    descriptors = [device(name) for name in names]
    with suppress(OSError):
        # Ranks that wait use up their cores. Packets must be on time nevertheless.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    gc.disable()
    print("ready", flush=True)
    forward(descriptors, Switch(len(names), float(delay), float(rate)))


if __name__ == "__main__":
    main(*sys.argv[1:])
