"""The small parts: ids, health, strain, telemetry, Prometheus text, the journal, sd_notify, evidence, commands."""

import ctypes
import io
import os
import resource
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from distillnet.device import host
from distillnet.device.broker import Message
from distillnet.device.config import EvidenceSection
from distillnet.device.evidence import Evidence
from distillnet.device.frames import Frame
from distillnet.device.health import Health
from distillnet.device.ids import derived_uuid7, uuid7
from distillnet.device.journal import JournalHandler, Note, note
from distillnet.device.notify import Notifier
from distillnet.device.prometheus import Exporter, exposition
from distillnet.device.remote import CommandError, Commands, NewThreshold, Nothing
from distillnet.device.strain import Strain
from distillnet.device.telemetry import Telemetry
from distillnet.device.top import Board
from distillnet.device.watch import describe
from distillnet.proto.mqtt import TelemetryPayload


def test_ids_are_uuid7_and_sort_by_time() -> None:
    ids = [uuid7(1_700_000_000 + second) for second in range(50)]
    assert ids == sorted(ids) and len(set(ids)) == 50
    for text in (*ids, derived_uuid7(12.5, "door", "None", "dog")):
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert int(ids[0][:8] + ids[0][9:13], 16) == 1_700_000_000_000
    assert derived_uuid7(1.0, "a", "b") == derived_uuid7(1.0, "a", "b") != derived_uuid7(1.0, "ab", "")


def test_the_state_follows_from_what_is_wrong() -> None:
    said: list[tuple[str, str]] = []
    health = Health(lambda state, reason: said.append((state, reason)))
    assert health.state() == ("init", "waiting for the first student")
    health.has_student()
    health.complain("disk", "disk full")
    health.complain("disk", "disk full")
    health.update_phase("fetching")
    health.update_phase("committed")
    health.complain("disk", "")
    assert said == [
        ("ready", ""),
        ("degraded", "disk full"),
        ("updating", "disk full"),
        ("degraded", "disk full"),
        ("ready", ""),
    ]


def test_a_stream_faster_than_inference_is_announced_and_recovery_too() -> None:
    strain = Strain(0.0)
    assert strain.look(1.0, {"a": (30, 0)}) == {}
    reasons = strain.look(5.0, {"a": (150, 60), "b": (50, 1)})
    assert reasons == {"a": "source a: 30 frames/s come, inference keeps up with 18"}
    assert strain.look(10.0, {"a": (300, 60), "b": (100, 1)})["a"], "one good window is not enough"
    assert strain.look(15.0, {"a": (450, 60), "b": (150, 1)})["a"] == ""


def test_telemetry_reports_only_what_came_since_the_last_report() -> None:
    telemetry = Telemetry()
    for ms in range(1, 101):
        telemetry.stage("infer", float(ms))
        telemetry.frame("a", 1.0)
    _, stages, sources = telemetry.report({"a": (2, 7)})
    assert stages["infer"].n == 100 and stages["infer"].max == 100
    assert stages["infer"].p50 == pytest.approx(50.5) and stages["infer"].p95 == pytest.approx(95.05)
    assert (sources["a"].frames, sources["a"].dropped, sources["a"].queue) == (100, 7, 2)
    _, stages, sources = telemetry.report({"a": (0, 9)})
    assert stages == {} and (sources["a"].frames, sources["a"].dropped) == (0, 2)


def a_report() -> TelemetryPayload:
    telemetry = Telemetry()
    telemetry.frame("a", 1.0)
    telemetry.stage("infer", 2.0)
    _, stages, sources = telemetry.report({"a": (0, 0)})
    facts = {"session": "s", "ts": 1, "interval_s": 1, "uptime_s": 1, "model_digest": "", "outbox_events": 0}
    return TelemetryPayload.model_validate(
        facts | {"outbox_bytes": 0, "rss_bytes": 1 << 20, "cpu_share": 0.1, "stages": stages, "sources": sources}
    )


def test_prometheus_text_is_served_on_localhost(unused_port: int) -> None:
    exporter = Exporter(unused_port, lambda: exposition(a_report(), {"a": (10, 3, 1)}))
    exporter.start()
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    exporter.stop()
    assert 'distillnet_frames_total{source="a"} 10' in lines
    assert 'distillnet_stage_milliseconds{stage="infer",quantile="0.99"} 2' in lines
    report = a_report()
    assert f'distillnet_model_info{{digest="{report.model_digest}"}} 1' in lines
    assert f"distillnet_uptime_seconds {report.uptime_s:g}" in lines
    queued = [line for line in lines if line.startswith("distillnet_queue_frames")]
    assert len(queued) == len(report.sources) > 0
    assert exposition(None, {}) == "\n"


def receiver(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(path))
    server.settimeout(5)
    return server


def test_systemd_is_told(tmp_path: Path) -> None:
    server = receiver(tmp_path / "n")
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "30000000"})
    assert notifier.watchdog_s == 30.0
    notifier.send(READY=1, STATUS="two\nlines")
    assert server.recv(999) == b"READY=1\nSTATUS=two lines"
    server.close()
    notifier.send(WATCHDOG=1)  # nobody there: no error
    Notifier({}).send(READY=1)


def test_the_journal_gets_fields_and_stable_ids(tmp_path: Path) -> None:
    import logging

    server = receiver(tmp_path / "j")
    log = logging.getLogger("distillnet.test-journal")
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(JournalHandler(str(tmp_path / "j")))
    note(log, Note.EVENT, "dog %s", "new", event="dog")
    lines = server.recv(9999).decode().splitlines()
    assert {"MESSAGE=dog new", "PRIORITY=6", f"MESSAGE_ID={Note.EVENT.value[0]}", "DISTILLNET_EVENT=dog"} <= set(lines)
    log.warning("two\nlines")
    assert b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n" in server.recv(9999)
    assert len({kind.value[0] for kind in Note}) == len(Note)


def frame(index: int, t: float) -> Frame:
    return Frame("door", index, np.full((48, 64, 3), index, np.uint8), 1000.0 + t, t, 0.0, 0.0)


def test_a_snapshot_is_written_and_the_oldest_go_beyond_the_quota(tmp_path: Path) -> None:
    evidence = Evidence(EvidenceSection(mode="snapshot", max_bytes=1 << 20), tmp_path)
    old = tmp_path / "evidence" / "door" / "old.jpg"
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(1 << 20))
    os.utime(old, (time.time() - 60, time.time() - 60))
    evidence.start()
    name = evidence.begin(frame(1, 0.0), "an-id")
    evidence.stop(5)
    assert name == "evidence/door/an-id.jpg"
    assert (tmp_path / name).read_bytes()[:3] == b"\xff\xd8\xff"
    assert not old.exists()


def test_nothing_is_left_of_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    evidence = Evidence(EvidenceSection(mode="snapshot"), tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            evidence.save_now(frame(1, 0.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_clip_holds_what_was_before_and_after(tmp_path: Path) -> None:
    import cv2

    evidence = Evidence(EvidenceSection(mode="clip", before_s=1.0, after_s=1.0), tmp_path)
    evidence.start()
    name = None
    for index in range(80):
        now = frame(index, index * 0.05)
        evidence.observe(now)
        if index == 40:
            name = evidence.begin(now, "an-id")
        time.sleep(0.002)
    evidence.stop(5)
    assert name is not None
    clip = cv2.VideoCapture(str(tmp_path / name))
    levels = []
    while (got := clip.read())[0]:
        levels.append(float(got[1].mean()))
    assert 9 <= len(levels) <= 13
    assert levels[0] < 25 and levels[-1] > 55


def test_without_being_asked_nothing_is_kept(tmp_path: Path) -> None:
    evidence = Evidence(EvidenceSection(), tmp_path)
    evidence.start()
    evidence.observe(frame(0, 0.0))
    assert evidence.begin(frame(1, 0.1), "an-id") is None
    evidence.stop(1)
    assert list(tmp_path.iterdir()) == []


def request(verb: str, payload: bytes = b"{}", *, retained: bool = False) -> Message:
    return Message(f"distillnet/v1/porch/cmd/{verb}", payload, retained)


def test_commands_are_checked_before_they_run() -> None:
    done: list[object] = []
    commands = Commands()

    def threshold(wanted: NewThreshold) -> dict[str, object]:
        if wanted.event == "cow":
            raise CommandError("no cow here")
        done.append(wanted)
        return {"event": wanted.event}

    commands.add("threshold", NewThreshold, threshold)
    commands.add("report", Nothing, lambda wanted: {})
    good = b'{"event": "dog", "threshold": 0.5}'
    assert commands.run(request("threshold", good)).result == {"event": "dog"}
    assert len(done) == 1
    bad = {
        "retained commands are refused": request("threshold", good, retained=True),
        "did you mean 'threshold'?": request("treshold", good),
        "threshold is required": request("threshold", b'{"event": "dog"}'),
        "did you mean 'event'?": request("threshold", b'{"evnt": "dog", "threshold": 1}'),
        "is not JSON": request("threshold", b"{"),
        "must be a JSON object": request("report", b"[]"),
        "no cow here": request("threshold", b'{"event": "cow", "threshold": 0.5}'),
        "at most 4096": request("report", b" " * 5000),
    }
    for reason, message in bad.items():
        answer = commands.run(message)
        assert not answer.ok and reason in answer.reason, answer
    assert commands.run(request("report", b"")).ok
    assert len(done) == 1


def test_watch_says_each_message_in_one_line() -> None:
    event = {"phase": "new", "event": "dog", "source": "door", "zone": "left", "score": 0.9, "top_score": 0.95}
    assert "new dog" in describe("event/door/dog", event) and "door/left" in describe("event/door/dog", event)
    assert describe("state/door/dog", "ON") == "state/door/dog ON"
    assert "degraded" in describe("status", {"state": "degraded", "reason": "[odd] text"})
    assert "infer 2.0/2.0" in describe("telemetry", a_report().model_dump(mode="json"))
    assert "v3 ← v4" in describe("model", {"installed": {"version": 3}, "candidate": {"version": 4}, "phase": "shadow"})


def test_the_live_table_knows_what_each_device_does() -> None:
    board = Board()
    base = "distillnet/v1/porch"
    board.take(f"{base}/status", {"state": "ready", "reason": ""})
    board.take(f"{base}/info", {"application": "yard", "model_version": 3, "engine": "native"})
    board.take(f"{base}/telemetry", a_report().model_dump(mode="json"))
    board.take(f"{base}/state/door/dog", "ON")
    board.take(f"{base}/state/door/cat", "ON")
    board.take(f"{base}/state/door/cat", "OFF")
    board.take(f"{base}/event/door/dog", {"event": "dog", "phase": "new", "frame_ts": 1.0})
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(board.table())
    text = console.export_text()
    for part in ("porch", "ready", "yard v3 native", "2.0 ms", "door/dog", "dog new"):
        assert part in text
    assert "door/cat" not in text


def test_memory_that_is_free_in_pieces_goes_back_to_the_system() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("a C library without malloc_trim")
    pieces = [bytearray(2048) for _ in range(20_000)]
    del pieces[:-1]  # what stays at the end keeps the rest from going back by itself
    before = host.rss_bytes()
    host.give_memory_back()
    assert before - host.rss_bytes() > 20_000_000


LARGE = """
import ctypes
from distillnet.device import host
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
host.keep_large_blocks_apart()
for _ in range(2):  # one that is freed has the C library take the next one from among the small ones
    large = c.malloc(1 << 20)
    c.memset(ctypes.c_void_p(large), 1, 1 << 20)
    before = host.rss_bytes()
    keeps = c.malloc(1000)
    c.free(large)
    assert before - host.rss_bytes() >= 1 << 20
"""


def test_a_large_block_goes_back_as_soon_as_it_is_freed() -> None:
    subprocess.run([sys.executable, "-c", LARGE], check=True)
