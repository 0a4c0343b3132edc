"""A board takes what its fleet directs, says so truthfully, and keeps running whatever happens."""

import itertools
import time

import pytest
import tiny
from board import until
from pydantic import ValidationError
from simulated_cloud import DAY, utc

from distillnet.device.config import UpdateSection, within_hours
from distillnet.device.update import effects, link, service
from distillnet.device.update.service import open_store
from distillnet.proto.v1 import fleet_pb2

pytestmark = pytest.mark.integration

COMMITTED = fleet_pb2.UPDATE_PHASE_COMMITTED
REFUSED = fleet_pb2.UPDATE_PHASE_REFUSED
ROLLED_BACK = fleet_pb2.UPDATE_PHASE_ROLLED_BACK


def test_directive_is_taken_to_a_commit_reported_by_digest(cloud, board):
    report = board.take(2)
    assert report.phase == COMMITTED and report.version == 2
    assert board.running_version == 2
    assert report.digest == board.slot.current().digest
    phases = [payload.phase for payload in board.payloads if payload.installed and payload.installed.version == 1]
    expected = ["fetching", "verifying", "self-test", "switched", "probation"]
    assert [phase for phase in phases if phase in expected][-5:] == expected
    assert set(report.durations_ms) == set(expected)


def test_directive_reaches_the_board_within_a_second(cloud, board):
    directive = cloud.publish(2, tiny.numbered(2))
    started = time.monotonic()
    cloud.send(board.name, directive)
    until(lambda: directive.id in cloud.served.acks, 1.0)
    assert time.monotonic() - started < 1.0


def test_replayed_directive_is_answered_from_memory_and_not_run_again(cloud, board):
    directive = cloud.publish(2, tiny.numbered(2))
    cloud.send(board.name, directive)
    cloud.wait_outcome(directive)
    board.take(3)
    fetches = cloud.served.fetches
    cloud.served.reports.clear()
    cloud.send(board.name, directive)
    assert cloud.wait_outcome(directive).phase == COMMITTED
    assert board.running_version == 3
    assert cloud.served.fetches == fetches


def test_downgrade_is_refused_unless_its_signature_allows_it(cloud, board):
    board.take(3)
    report = board.take(2)
    assert report.phase == REFUSED and "not newer" in report.reason
    assert board.running_version == 3
    assert board.take(2, downgrade=True).phase == COMMITTED
    assert board.running_version == 2


def test_rollback_directive_goes_back_and_says_what_runs(cloud, board):
    board.take(2)
    rollback = cloud.rollback()
    cloud.send(board.name, rollback)
    report = cloud.wait_outcome(rollback)
    assert report.phase == ROLLED_BACK and report.version == 1
    assert board.running_version == 1


def test_rollback_away_from_a_version_that_does_not_run_changes_nothing(cloud, board):
    board.take(2)
    rollback = cloud.rollback(version=7)
    cloud.send(board.name, rollback)
    assert cloud.wait_outcome(rollback).version == 2
    assert board.running_version == 2


def test_rollback_directive_ends_a_probation_at_once(cloud, make_board):
    board = make_board(probation_s=600).enroll()
    board.update["probation_s"] = 0
    board.start()
    board.take(1)
    board.stop()
    board.update["probation_s"] = 600
    board.start()
    directive = cloud.publish(2, tiny.numbered(2))
    cloud.send(board.name, directive)
    until(lambda: board.running_version == 2)
    rollback = cloud.rollback(version=2)
    cloud.send(board.name, rollback)
    assert cloud.wait_outcome(directive).phase == ROLLED_BACK
    report = cloud.wait_outcome(rollback)
    assert report.phase == ROLLED_BACK and report.version == 1
    assert board.running_version == 1


def test_rollback_without_a_previous_student_is_refused(cloud, board):
    rollback = cloud.rollback()
    cloud.send(board.name, rollback)
    report = cloud.wait_outcome(rollback)
    assert report.phase == REFUSED and "no previous" in report.reason
    assert board.running_version == 1


def test_student_for_another_board_application_or_runtime_is_refused(cloud, board):
    assert "is meant for rpi4" in board.take(2, boards=["rpi4"]).reason
    assert "needs distillnet 99.0" in board.take(3, minimum_runtime="99.0").reason
    other = tiny.student(4, application="birds")
    directive = cloud.publish(4, other, "birds")
    cloud.send(board.name, directive)
    assert "is for application 'birds'" in cloud.wait_outcome(directive).reason
    assert board.running_version == 1


def test_card_that_contradicts_its_signature_is_refused(cloud, board):
    assert "its card says version 9" in board.take(2, tiny.student(9)).reason
    assert "its card says application 'birds'" in board.take(3, tiny.student(3, application="birds")).reason


def test_wrong_golden_vectors_are_refused(cloud, board):
    report = board.take(2, tiny.student(2, golden_shift=1))
    assert report.phase == REFUSED and "golden vector 0" in report.reason
    assert board.running_version == 1


def test_refused_student_leaves_nothing_behind(cloud, board):
    before = sorted(path.name for path in (board.state_dir / "store/students").iterdir())
    board.take(2, tiny.student(2, golden_shift=1))
    until(lambda: sorted(path.name for path in (board.state_dir / "store/students").iterdir()) == before)
    assert not list((board.state_dir / "store/partial").iterdir())


def test_update_goes_on_after_a_restart_in_probation(cloud, make_board):
    board = make_board().enroll().start()
    board.take(1)
    board.stop()
    board.update["probation_s"] = 600
    board.start()
    directive = cloud.publish(2, tiny.numbered(2))
    cloud.send(board.name, directive)
    until(lambda: board.service.record.update.phase == "probation")
    board.stop()
    board.update["probation_s"] = 0.1
    board.start()
    assert board.running_version == 2
    assert cloud.wait_outcome(directive).phase == COMMITTED


def test_timer_takes_a_newer_student_but_not_one_held_back_or_rejected(cloud, make_board):
    board = make_board().enroll().start()
    board.take(1)
    cloud.publish(2, tiny.numbered(2), hold=True)
    board.service.check_now()
    bad = cloud.publish(3, tiny.student(3, golden_shift=1))
    board.service.check_now()
    until(lambda: any(p.digest == bad.update.digest for p in board.service.record.history))
    tried = len(board.service.record.history)
    board.service.check_now()
    cloud.publish(4, tiny.numbered(4))
    board.service.check_now()
    until(lambda: board.service.record.update.phase == "committed")
    assert board.running_version == 4
    assert len(board.service.record.history) == tried + 1


def test_stop_takes_less_than_a_second_in_every_phase(cloud, make_board):
    board = make_board(probation_s=600).enroll().start()
    cloud.chunk_bytes = 64

    def crawl(request, chunks):
        for chunk in chunks:
            time.sleep(0.05 if request.path.startswith("targets/") else 0)
            yield chunk

    cloud.fetch_hook = crawl
    cloud.send(board.name, cloud.publish(1, tiny.numbered(1)))
    until(
        lambda: board.service.record.update.phase == "fetching" and list((board.state_dir / "store/partial").iterdir())
    )
    started = time.monotonic()
    board.stop()
    assert time.monotonic() - started < 1.0


def test_server_that_is_busy_is_left_alone_as_long_as_it_asks(cloud, make_board):
    cloud.retry_after = 0.7
    board = make_board().enroll().start()
    until(lambda: len(cloud.served.hellos) >= 3)
    gaps = [b[0] - a[0] for a, b in zip(cloud.served.hellos, cloud.served.hellos[1:], strict=False)]
    assert all(gap >= 0.69 for gap in gaps), gaps
    board.stop()


def busy_with_students(cloud, *answers):
    """Refuse the next fetches of students, asking for so many seconds each; returns when they were asked for."""
    left, asked = list(answers), []

    def busy(request):
        if not request.path.startswith("targets/"):
            return None
        asked.append(time.monotonic())
        return left.pop(0) if left else None

    cloud.busy = busy
    return asked


def test_download_waits_as_long_as_a_busy_server_asks_and_counts_no_attempt(cloud, board, monkeypatch):
    monkeypatch.setattr(effects, "MAX_FRUITLESS", 2)
    asked = busy_with_students(cloud, 0.3, 0.3, 0.3)
    assert board.take(2).phase == COMMITTED
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert len(gaps) == 3 and all(0.29 < gap < 0.6 for gap in gaps), gaps


def test_download_is_tried_again_where_a_busy_server_does_not_say_when(cloud, board):
    asked = busy_with_students(cloud, 0, 0)
    assert board.take(2).phase == COMMITTED
    assert len(asked) == 3


def test_wait_for_a_busy_server_ends_for_a_newer_directive_and_for_a_stop(cloud, board):
    slow = cloud.publish(2, tiny.numbered(2))
    asked = busy_with_students(cloud, 600)
    cloud.send(board.name, slow)
    until(lambda: asked)
    newer = cloud.publish(3, tiny.numbered(3))
    cloud.send(board.name, newer)
    assert "superseded by version 3" in cloud.wait_outcome(slow, 5.0).reason
    assert cloud.wait_outcome(newer).phase == COMMITTED
    asked = busy_with_students(cloud, 600)
    cloud.send(board.name, cloud.publish(4, tiny.numbered(4)))
    until(lambda: asked)
    started = time.monotonic()
    board.stop()
    assert time.monotonic() - started < 1.0


def test_board_that_lost_its_stream_comes_back_and_hears_what_it_missed(cloud, board):
    directive = cloud.publish(2, tiny.numbered(2))
    cloud.drop_stream(board.name)
    cloud.open_directives[board.name] = directive
    assert cloud.wait_outcome(directive).phase == COMMITTED


def test_server_that_never_welcomes_is_left_and_tried_again(cloud, make_board, monkeypatch):
    monkeypatch.setattr(link, "_WELCOME_S", 0.2)
    cloud.mute = True
    board = make_board().enroll().start(wait=False)
    until(lambda: cloud.muted_calls >= 3, 5.0)
    cloud.mute = False
    cloud.wait_connected(board.name)


def test_heartbeats_come_as_often_as_the_cloud_asks(cloud, make_board):
    cloud.heartbeat_s = 0.2
    board = make_board().enroll().start()
    before = cloud.served.heartbeats
    until(lambda: cloud.served.heartbeats >= before + 4, 3.0)
    board.stop()


def test_board_enrolled_while_its_daemon_runs_connects(cloud, make_board):
    board = make_board(server=cloud.address)
    board.start(wait=False)
    board.enroll()
    cloud.wait_connected(board.name)


def test_newer_directive_supersedes_a_download_under_way(cloud, board):
    slow = cloud.publish(2, tiny.numbered(2, filler=200_000))

    def crawl(request, chunks):
        for chunk in chunks:
            time.sleep(0.3 if "/2/" in request.path else 0)
            yield chunk

    cloud.fetch_hook = crawl
    cloud.send(board.name, slow)
    until(lambda: board.service.record.update.phase == "fetching")
    fast = cloud.publish(3, tiny.numbered(3))
    cloud.send(board.name, fast)
    assert "superseded by version 3" in cloud.wait_outcome(slow).reason
    assert cloud.wait_outcome(fast).phase == COMMITTED


def test_daemon_that_crashes_twice_on_probation_starts_with_the_old_student_and_says_why(cloud, make_board):
    board = make_board(max_crashes=2).enroll().start()
    board.take(1)
    board.stop()
    board.update["probation_s"] = 600
    board.start()
    directive = cloud.publish(2, tiny.numbered(2))
    cloud.send(board.name, directive)
    until(lambda: board.service.record.update.phase == "probation")
    for runs in (2, 1):
        board.stop()
        with open_store(board.config) as store:  # as if the process had died
            store.save(store.record.model_copy(update={"clean_stop": False}))
        board.start()
        assert board.running_version == runs
    report = cloud.wait_outcome(directive)
    assert report.phase == ROLLED_BACK and "died 2 times in probation" in report.reason
    assert report.version == 1


def test_student_damaged_on_the_disk_gives_way_to_the_previous_at_the_next_start(cloud, board):
    board.take(2)
    digest = board.slot.current().digest
    board.stop()
    path = board.state_dir / f"store/students/{digest.removeprefix('sha256:')}.student.tflite"
    path.write_bytes(path.read_bytes()[:100])
    board.start()
    assert board.running_version == 1
    assert board.take(3).phase == COMMITTED


@pytest.mark.parametrize("now", [0.0, 1e9])
def test_board_that_wakes_in_the_past_still_sees_that_metadata_has_expired(cloud, board, monkeypatch, now):
    from distillnet.device.update import effects

    honest = time.time
    monkeypatch.setattr(effects.time, "time", lambda: now)
    try:
        assert board.take(2).phase == COMMITTED
        cloud.repository.timestamp.expires = utc() - 3 * DAY  # before the certificate began
        assert "expired" in board.take(3).reason
    finally:
        monkeypatch.setattr(effects.time, "time", honest)


def test_board_whose_clock_runs_ahead_says_so_and_takes_the_update_once_it_is_right(cloud, board, monkeypatch):
    from distillnet.device.update import effects

    real = effects.believed_time
    monkeypatch.setattr(effects, "believed_time", lambda identity, now, cloud: real(identity, now + 3e8, cloud))
    assert "this board's clock is wrong" in board.take(2).reason
    monkeypatch.setattr(effects, "believed_time", real)
    board.service.check_now()
    until(lambda: board.running_version == 2)


def test_update_waits_for_its_hours_and_a_rollback_does_not(cloud, make_board, monkeypatch):
    board = make_board().enroll().start()
    board.take(1)
    board.take(2)
    board.stop()
    board.update["hours"] = [("02:00", "04:00")]
    clock = {"now": "12:00"}
    monkeypatch.setattr(service, "within_hours", lambda hours, now: not hours or "02:00" <= clock["now"] < "04:00")
    board.start()
    directive = cloud.publish(3, tiny.numbered(3))
    cloud.send(board.name, directive)
    until(lambda: any("waits for its hours" in report.reason for report in cloud.served.reports))
    assert board.payloads[-1].reason == "waits for its hours (02:00–04:00)"
    rollback = cloud.rollback()
    cloud.send(board.name, rollback)
    assert cloud.wait_outcome(rollback).version == 1
    clock["now"] = "02:30"
    assert cloud.wait_outcome(directive).phase == COMMITTED
    assert board.running_version == 3


def test_update_waits_while_the_way_out_is_metered(cloud, make_board, monkeypatch):
    board = make_board(metered=["wwan*"]).enroll().start()
    board.take(1)
    way = {"out": "wwan0"}
    monkeypatch.setattr(service, "metered_by", lambda patterns: way["out"] if patterns == ["wwan*"] else "")
    directive = cloud.publish(2, tiny.numbered(2))
    cloud.send(board.name, directive)
    until(lambda: any("not metered (wwan0)" in report.reason for report in cloud.served.reports))
    assert board.running_version == 1
    way["out"] = ""
    assert cloud.wait_outcome(directive).phase == COMMITTED


@pytest.mark.parametrize(
    ("hours", "clock", "inside"),
    [
        ([], (3, 0), True),
        ([("02:00", "04:00")], (3, 0), True),
        ([("02:00", "04:00")], (4, 0), False),
        ([("22:00", "04:00")], (23, 30), True),
        ([("22:00", "04:00")], (3, 59), True),
        ([("22:00", "04:00")], (12, 0), False),
        ([("01:00", "02:00"), ("12:00", "13:00")], (12, 30), True),
    ],
)
def test_hours_may_go_over_midnight(hours, clock, inside):
    now = time.mktime((2026, 6, 15, *clock, 0, 0, 0, -1))
    assert within_hours(hours, now) is inside


@pytest.mark.parametrize("wrong", ["2:00", "25:00", "02:60", "night"])
def test_hours_that_are_no_time_are_an_error(wrong):
    with pytest.raises(ValidationError, match="written HH:MM"):
        UpdateSection(hours=[("01:00", wrong)])
