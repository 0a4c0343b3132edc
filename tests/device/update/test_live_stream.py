"""Updates while the daemon watches a real video: no frame is lost, and a bad student goes by itself."""

import crash_loop
import numpy as np
import pytest
import stream
import tiny
from hundred import campaign
from stream import LiveBoard, good

from distillnet.proto.v1 import fleet_pb2

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_good_students_are_committed_and_bad_ones_roll_back_with_no_frame_dropped(tmp_path, quick_trial):
    facts = campaign(8, tmp_path, lambda _: None, bad_every=2)
    assert facts["wrong"] == []
    assert len(facts["reasons"]) == 4, facts["reasons"]
    assert facts["dropped"] == 0
    assert facts["gap_at_switch_p50_ms"] <= 2000 / stream.FPS, facts
    assert facts["descriptors_leaked"] <= 1


def test_shadow_run_refuses_a_student_that_disagrees_before_it_ever_runs(cloud, tmp_path, quick_trial):
    board = LiveBoard(cloud, tmp_path / "board", probation_s=0.2).enroll().start()
    try:
        board.take(1, good(1))
        board.stop()
        board.update["shadow_s"] = 1.5
        board.start()
        wrong = tiny.student(2, weights=np.zeros((3, 48), np.int8), bias=stream._logits(8, -8, -8))
        report = board.take(2, wrong)
        assert report.phase == fleet_pb2.UPDATE_PHASE_REFUSED
        assert "shadow: scores differ by" in report.reason
        assert board.running_version == 1
        assert report.shadow.frames > 10 and report.shadow.disagreement > 0.5
        alike = board.take(3, good(3))
        assert alike.phase == fleet_pb2.UPDATE_PHASE_COMMITTED
        assert alike.shadow.frames > 10 and alike.shadow.disagreement < 0.5
        assert alike.shadow.latency_ms > 0 and alike.shadow.live_latency_ms > 0
    finally:
        board.stop()


def test_daemon_that_really_dies_of_its_student_three_times_goes_back_and_takes_the_next(tmp_path, quick_trial):
    facts = crash_loop.run("segmentation fault on the stream", tmp_path)
    assert facts["deaths"] == ["SIGSEGV"] * crash_loop.MAX_CRASHES
    assert facts["reason"] == "the daemon died 3 times in probation"
    assert crash_loop.as_expected(facts), facts
