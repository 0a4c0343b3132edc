"""An update comes through a bad network, and costs little more than its size."""

import pytest
import tiny
from bad_network import BadNetwork, Faults

pytestmark = pytest.mark.integration

CASES = {
    "300 ms latency": (Faults(latency_s=0.15), 300_000),
    "64 kbit/s": (Faults(rate_bytes_per_s=8000), 60_000),
    "break every 200 kB": (Faults(break_after_bytes=200_000), 1_000_000),
    "break every 200 kB, 300 ms": (Faults(break_after_bytes=200_000, latency_s=0.15), 600_000),
    "silences": (Faults(stall=0.02), 300_000),
}


@pytest.mark.parametrize("name", CASES)
def test_update_completes_and_fetches_at_most_a_tenth_more_than_its_size(name, cloud, make_board):
    faults, size = CASES[name]
    with BadNetwork(cloud.address, faults) as network:
        board = make_board(server=network.address).enroll().start()
        data = tiny.student(1, filler=size)
        directive = cloud.publish(1, data)
        before, served = network.down_bytes, cloud.served.bytes
        cloud.send(board.name, directive)
        report = cloud.wait_outcome(directive, 90)
        assert report.reason == ""
        assert board.running_version == 1
        fetched, payload = network.down_bytes - before, cloud.served.bytes - served
        assert fetched <= 1.1 * len(data) + 8000, f"{fetched} bytes over the wire for {len(data)} ({payload} served)"
        if faults.break_after_bytes:
            assert network.breaks >= len(data) // faults.break_after_bytes
        print(f"{name}: {len(data)} bytes, {fetched / len(data):.3f} of it fetched, {network.connections} connections")  # noqa: T201
