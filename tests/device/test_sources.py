"""Sources: real files, pace, loops, rates, bounded queues, and what goes wrong with them."""

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from distillnet.device import readers
from distillnet.device.config import Source
from distillnet.device.feed import Feed
from distillnet.device.frames import Frame, Intake
from distillnet.device.opencv import bgr
from distillnet.device.readers import SourceError, check, kind_of, open_reader, read
from distillnet.device.telemetry import Telemetry
from distillnet.engine.preprocess import Planes


def frame(index: int, source: str = "a") -> Frame:
    return Frame(source, index, np.zeros((2, 2, 3), np.uint8), 0.0, 0.0, 0.0, 0.0)


def test_a_full_queue_drops_the_oldest_and_counts() -> None:
    told: list[int] = []
    intake = Intake(on_drop=told.append)
    intake.add("a", 2)
    assert not intake.put(frame(0)), "nobody looks yet: not taken, not dropped"
    intake.open()
    for index in range(5):
        assert intake.put(frame(index))
    assert intake.dropped("a") == 3 == sum(told)
    assert [intake.get(0).index for _ in range(2)] == [3, 4]  # type: ignore[union-attr]
    assert intake.get(0) is None


def test_only_a_frame_that_comes_next_need_not_wait() -> None:
    intake = Intake()
    intake.add("a", 2)
    assert not intake.idle("a"), "nobody looks yet"
    intake.open()
    assert intake.idle("a") and not intake.idle("gone")
    intake.put(frame(0))
    assert not intake.idle("a"), "it would overtake another"
    intake.get(0)
    assert intake.idle("a")


def test_sources_take_turns() -> None:
    intake = Intake()
    intake.open()
    for source in "ab":
        intake.add(source, 8)
        for index in range(3):
            intake.put(frame(index, source))
    order = [intake.get(0).source for _ in range(6)]  # type: ignore[union-attr]
    assert order == ["a", "b"] * 3


def collect(
    source: Source, *, frames: int | None = None, timeout_s: float = 20.0
) -> tuple[list[Frame], Feed, list[str]]:
    """Run a feed until it ends or has given so many frames."""
    intake, states = Intake(), []
    intake.open()
    feed = Feed(source, intake, Telemetry(), lambda _, state, reason: states.append(f"{state} {reason}".strip()))
    feed.start()
    found: list[Frame] = []
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and not (feed.finished and not intake.depth(source.id)):
        if (got := intake.get(0.05)) is not None:
            found.append(got)
            if frames is not None and len(found) >= frames:
                break
    feed.stop()
    assert feed.join(5.0)
    return found, feed, states


def test_a_video_as_fast_as_possible_gives_every_frame_with_its_time(video: Path) -> None:
    found, feed, states = collect(Source(id="v", url=str(video), pace="fast", queue=2))
    assert [f.index for f in found] == list(range(100))
    assert np.allclose([f.t for f in found], np.arange(100) / 20, atol=1e-3)
    assert np.allclose(np.diff([f.ts for f in found]), 0.05, atol=1e-3)
    assert isinstance(found[30].pixels, Planes), "left in the decoder's YUV"
    assert bgr(found[30].pixels).shape == (120, 160, 3)
    assert bgr(found[30].pixels)[..., 2].mean() > 150 > bgr(found[5].pixels)[..., 2].mean()
    assert states == ["online", "stalled end of file"]
    assert feed.finished


def test_a_loop_goes_on_in_time(video: Path) -> None:
    found, _, states = collect(Source(id="v", url=str(video), pace="fast", loop=True), frames=250)
    t = [f.t for f in found]
    assert np.allclose(np.diff(t), 0.05, atol=2e-3)
    assert states == ["online"]


def test_a_rate_limit_thins_evenly(video: Path) -> None:
    found, _, _ = collect(Source(id="v", url=str(video), pace="fast", rate_hz=5))
    assert 24 <= len(found) <= 26
    assert np.allclose(np.diff([f.t for f in found]), 0.2, atol=0.06)


def test_frames_that_are_not_wanted_are_not_converted(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[object] = []
    retrieve = readers._VideoFile.retrieve

    def counted(reader: readers._VideoFile) -> readers.Picture | None:
        converted.append(reader)
        return retrieve(reader)

    monkeypatch.setattr(readers._VideoFile, "retrieve", counted)
    found, _, _ = collect(Source(id="v", url=str(video), pace="fast", rate_hz=5))
    assert len(converted) == len(found) < 30


@pytest.mark.slow
def test_real_time_takes_as_long_as_the_video(video: Path) -> None:
    started = time.monotonic()
    found, _, _ = collect(Source(id="v", url=str(video)))
    assert len(found) == 100
    assert 4.7 <= time.monotonic() - started <= 6.5


def test_a_directory_of_pictures_in_order_without_the_broken_ones(tmp_path: Path) -> None:
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((8, 8, 3), index * 10, np.uint8))
    (tmp_path / "1b.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("none either")
    found, _, _ = collect(Source(id="d", url=str(tmp_path), pace="fast", rate_hz=2))
    assert [int(f.pixels[0, 0, 0]) for f in found] == [0, 10, 20, 30]
    assert found[-1].t == pytest.approx(2.0)


def test_garbage_in_a_video_ends_and_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(40):
        writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer.release()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = rng.bytes(4000)
    path.write_bytes(data[: len(data) * 3 // 4])
    found, feed, _ = collect(Source(id="v", url=str(path), pace="fast"))
    assert feed.finished
    assert 10 <= len(found) <= 40


def test_missing_and_empty_files_say_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'v'.*nothing.mp4 does not exist"):
        check(Source(id="v", url=str(tmp_path / "nothing.mp4")))
    with pytest.raises(SourceError, match="holds no pictures"):
        check(Source(id="v", url=str(tmp_path)))
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(SourceError, match="no video that can be decoded"):
        check(Source(id="v", url=str(tmp_path / "text.mp4")))


def test_kinds_are_guessed_from_the_url(tmp_path: Path) -> None:
    urls = {
        "0": "camera",
        "/dev/video2": "camera",
        "rtsp://user:secret@host/x": "stream",
        "http://host/x.mjpg": "stream",
        "libcamerasrc ! videoconvert ! appsink": "pipeline",
        str(tmp_path): "images",
        "x.mp4": "video",
    }
    assert {url: kind_of(Source(id="s", url=url)) for url in urls} == urls
    assert Source(id="s", url="rtsp://user:secret@host/x").shown_url == "rtsp://host/x"


def test_a_camera_that_is_not_there_is_tried_again() -> None:
    states: list[str] = []
    tried = threading.Event()
    source = Source(id="c", url="/dev/video-none")

    def on_state(_: str, state: str, reason: str) -> None:
        states.append(f"{state} {reason}")
        tried.set()

    feed = Feed(source, Intake(), Telemetry(), on_state)
    check(source)  # a camera may come later
    feed.start()
    assert tried.wait(10)
    feed.stop()
    assert feed.join(5)
    assert states[0].startswith("error source 'c': camera /dev/video-none cannot be opened: there is no such device")
    assert not feed.finished or feed.join(0)


def test_a_reader_gives_bgr_of_grey_pictures(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((5, 7), np.uint8))
    reader = open_reader(Source(id="d", url=str(tmp_path)))
    picture = read(reader)
    reader.close()
    assert picture is not None and picture.pixels.shape == (5, 7, 3)
