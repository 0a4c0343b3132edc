"""The next distillation would learn nothing, or a board's pictures leave it unasked, if the wrong ones were kept."""

import cv2
import numpy as np
import pytest

from distillnet.device.config import EventRule, FeedbackSection
from distillnet.device.decisions import Decisions
from distillnet.device.frames import Frame
from distillnet.device.unsure import ENDING, FOLDER, Unsure
from distillnet.proto.card import Card, CardEvent, ImageInput, TeacherInfo
from distillnet.proto.v1 import feedback_pb2

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


class Student:
    """As much of a student as is asked: its card and digest."""

    digest = "sha256:" + "1" * 64
    card = Card(
        application="pets",
        events=[CardEvent(name=name, index=i, threshold=0.5, exit_threshold=0.4) for i, name in enumerate("ab")],
        other=2,
        input=ImageInput(height=4, width=4),
        teacher=TeacherInfo(name="none", source="test"),
        seed=0,
    )


@pytest.fixture
def rules():
    decisions = Decisions([EventRule(name="b", sources=["elsewhere"])], lambda ts, key: "")
    decisions.follow(Student.card)
    return decisions


def frame(width: int = 80, height: int = 40) -> Frame:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255
    return Frame("cam", 0, pixels, ts=1234.5, t=0.0, captured=0.0, capture_ms=0.0)


def scores(a: float, b: float = 0.0):
    return np.array([a, b, 1 - a - b], np.float32)


def keep(tmp_path, rules, *looks, **config):
    """Offer looks, [(frame, {box: scores}, second)], and return what was kept, oldest first."""
    seconds = [0.0]
    unsure = Unsure(FeedbackSection(**({"examples": True} | config)), tmp_path, clock=lambda: seconds[0])
    unsure.start()
    for picture, seen, second in looks:
        seconds[0] = second
        unsure.offer(Student(), picture, list(seen), list(seen.values()), rules)
    unsure.stop(10.0)
    files = sorted((tmp_path / FOLDER).glob(f"*{ENDING}"))
    return [feedback_pb2.Example.FromString(path.read_bytes()) for path in files]


def test_the_zone_closest_to_a_threshold_is_kept_as_it_was_looked_at(tmp_path, rules):
    (kept,) = keep(tmp_path, rules, (frame(), {LEFT: scores(0.6), RIGHT: scores(0.47)}, 1.0))
    assert (kept.application, kept.event, kept.source, kept.ts) == ("pets", "a", "cam", 1234.5)
    assert kept.score == pytest.approx(0.47) and kept.threshold == 0.5 and kept.model_digest == Student.digest
    picture = cv2.imdecode(np.frombuffer(kept.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (40, 40, 3) and picture.mean() > 250, "the right zone"


def test_nothing_is_kept_unless_asked_or_of_what_is_certain_or_not_watched_for(tmp_path, rules):
    certain = {None: scores(0.9), LEFT: scores(0.1, 0.5)}  # b is watched for elsewhere only
    assert keep(tmp_path, rules, (frame(), certain, 1.0)) == []
    assert keep(tmp_path, rules, (frame(), {None: scores(0.5)}, 1.0), examples=False) == []
    rules.set_threshold("a", 0.95, None)
    assert len(keep(tmp_path, rules, (frame(), certain, 1.0))) == 1, "the threshold in force is the one that counts"


def test_no_more_than_so_many_an_hour(tmp_path, rules):
    looks = [(frame(), {None: scores(0.5)}, second) for second in (1.0, 2.0, 1800.0, 1802.0, 3601.0)]
    assert len(keep(tmp_path, rules, *looks, per_hour=2)) == 2


def test_a_large_picture_is_made_smaller_and_the_oldest_go_beyond_the_quota(tmp_path, rules):
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1600, 3), dtype=np.uint8)
    looks = [(Frame("cam", n, noise, float(n), 0.0, 0.0, 0.0), {None: scores(0.5)}, 10.0 * n) for n in range(12)]
    kept = []
    for look in looks:  # one by one: a queue that is full takes none
        kept = keep(tmp_path, rules, look, per_hour=3600, max_bytes=1 << 20)
    assert cv2.imdecode(np.frombuffer(kept[0].jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (480, 640, 3)
    assert sum(len(each.jpeg) for each in kept) <= 1 << 20
    assert 1 <= len(kept) < 12 and kept[-1].ts == 11.0
