"""The outbox: on disk before offered, in order, bounded, and never in the way of the daemon."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillnet.device.outbox import Outbox


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(path: Path, clock: Clock | None = None, **options: float) -> Outbox:
    return Outbox(path, clock=clock or Clock(), **options)  # type: ignore[arg-type]


def payloads(outbox: Outbox, after: int = 0) -> list[bytes]:
    return [entry.payload for entry in outbox.peek(after, 1000)]


def test_what_was_put_is_there_after_a_restart_in_order(tmp_path: Path) -> None:
    outbox = opened(tmp_path / "o.db")
    for index in range(10):
        outbox.put("s", "t", b"%d" % index)
    again = opened(tmp_path / "o.db")  # without close: as after SIGKILL
    assert payloads(again) == [b"%d" % index for index in range(10)]
    assert again.events == 10


def test_acknowledged_events_are_gone_and_keys_never_return(tmp_path: Path) -> None:
    outbox = opened(tmp_path / "o.db")
    keys = [outbox.put("s", "t", b"x") for _ in range(3)]
    outbox.ack(keys[:2])
    outbox.close()
    again = opened(tmp_path / "o.db")
    assert [entry.key for entry in again.peek(0, 9)] == [keys[2]]
    assert again.put("s", "t", b"y") > keys[2]


def test_the_oldest_go_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    outbox = opened(tmp_path / "o.db", max_bytes=10 * (64 + 1 + 36))
    for index in range(25):
        outbox.put("s", "t", b"%036d" % index)
    assert [int(payload) for payload in payloads(outbox)] == list(range(15, 25))
    assert outbox.lost == 15
    assert outbox.size <= 10 * 101


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    clock = Clock()
    outbox = opened(tmp_path / "o.db", clock, max_age_s=60.0)
    outbox.put("s", "t", b"old")
    clock.now += 61
    outbox.put("s", "t", b"new")
    outbox.tend()
    assert payloads(outbox) == [b"new"]


def test_what_the_broker_has_leaves_the_disk_though_no_event_follows(tmp_path: Path) -> None:
    clock = Clock()
    outbox = opened(tmp_path / "o.db", clock)
    outbox.ack([outbox.put("s", "t", b"x")])
    clock.now += 11
    outbox.tend()
    with sqlite3.connect(tmp_path / "o.db") as db:
        assert db.execute("SELECT count(*) FROM events").fetchone()[0] == 0


def test_a_corrupt_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    path.write_bytes(b"SQLite format 3\0" + os.urandom(8192))
    outbox = opened(path)
    outbox.put("s", "t", b"x")
    assert outbox.fault == ""
    assert payloads(opened(path)) == [b"x"]
    assert path.with_name("o.db.corrupt").exists()


def test_a_file_that_was_torn_never_wedges_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    outbox = opened(path)
    for index in range(200):
        outbox.put("s", "t", b"%d" % index * 50)
    outbox.close()
    whole = path.read_bytes()
    for cut in (0, 1, 99, 4096, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        again = opened(path)
        again.put("s", "t", b"after")
        assert payloads(again)[-1] == b"after"
        assert again.fault == ""
        again.close()


def test_without_a_disk_events_stay_in_memory_and_move_later(tmp_path: Path) -> None:
    directory = tmp_path / "not-there"
    directory.write_text("a file in the way")
    outbox = opened(directory / "o.db")
    keys = [outbox.put("s", "t", b"%d" % index) for index in range(3)]
    assert outbox.fault
    assert payloads(outbox) == [b"0", b"1", b"2"]
    directory.unlink()
    outbox.ack(keys[:1])
    outbox.tend()
    assert outbox.fault == ""
    assert payloads(opened(directory / "o.db")) == [b"1", b"2"]


_FULL = """
import resource, sys
from pathlib import Path
from distillnet.device.outbox import Outbox
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 400_000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
outbox = Outbox(Path(sys.argv[1]), clock=lambda: 0.0)
for index in range(400):
    outbox.put("s", "t", b"%05d" % index * 200)
assert outbox.fault, "the disk was to be full"
assert [int(e.payload[:5]) for e in outbox.peek(0, 1000)] == list(range(400))
outbox.ack([e.key for e in outbox.peek(0, 390)])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
outbox.tend()
assert not outbox.fault, outbox.fault
outbox.close()
"""


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A file size limit stands for the full disk: SQLite sees the same refused writes."""
    subprocess.run([sys.executable, "-c", _FULL, str(tmp_path / "o.db")], check=True, timeout=60)
    assert [int(payload[:5]) for payload in payloads(opened(tmp_path / "o.db"))] == list(range(390, 400))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


_WRITER = """
import sys, time
from pathlib import Path
from distillnet.device.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]), clock=time.time)
for index in range(10**9):
    key = outbox.put("s", "t", b"%d" % index)
    if index % 3 == 0:
        outbox.ack([key])
        sys.stdout.write(f"a{index}\\n")
    else:
        sys.stdout.write(f"p{index}\\n")
    sys.stdout.flush()
"""


def kill_while_writing(path: Path, lines: int) -> None:
    """SIGKILL a writer after so many reported writes; everything reported must be there, or acknowledged."""
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    reported = [writer.stdout.readline().strip() for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    reported += [line.strip() for line in writer.stdout if line.endswith("\n")]
    writer.wait()
    outbox = opened(path)
    found = [int(payload) for payload in payloads(outbox)]
    assert outbox.fault == ""
    assert found == sorted(found)
    kept = [int(line[1:]) for line in reported if line[0] == "p"][-1000:]
    missing = set(kept) - {int(entry.payload) for entry in outbox.peek(0, 10**6)}
    assert not missing
    outbox.close()


@pytest.mark.integration
@pytest.mark.parametrize("lines", [1, 7, 40, 153])
def test_sigkill_loses_nothing_that_was_put(tmp_path: Path, lines: int) -> None:
    kill_while_writing(tmp_path / "o.db", lines)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.integers(0, 30)), max_size=40))
def test_it_behaves_like_an_ordered_list(tmp_path: Path, steps: list[bytes | int]) -> None:
    path = tmp_path / "model.db"
    path.unlink(missing_ok=True)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    outbox = opened(path)
    expected: dict[int, bytes] = {}
    for item in steps:
        if isinstance(item, bytes):
            expected[outbox.put("s", "t", item)] = item
        elif expected:
            key = list(expected)[item % len(expected)]
            outbox.ack([key])
            del expected[key]
    assert {entry.key: entry.payload for entry in outbox.peek(0, 1000)} == expected
    assert outbox.events == len(expected)
    outbox.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM events").fetchone()[0] == len(expected)
