"""PyAV and OpenCV give the same pictures of the same videos; what the engine can take stays in the decoder's YUV."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from distillnet.device import video
from distillnet.device.opencv import bgr
from distillnet.device.video import open_video
from distillnet.engine.preprocess import Planes

SIZE = (64, 48)


def picture(index: int, size: tuple[int, int]) -> np.ndarray:
    """Smooth, reddish to the left, bluish below, brighter from picture to picture."""
    width, height = size
    across, down = np.linspace(60, 180, width), np.linspace(60, 180, height)
    blue, red = np.repeat(down[:, np.newaxis], width, 1), np.repeat(across[np.newaxis, ::-1], height, 0)
    return np.dstack([blue, np.full((height, width), 100.0 + 4 * index), red]).astype(np.uint8)


def write(path: Path, codec: str, pixel_format: str, size: tuple[int, int]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        for index in range(5):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(index, size), format="bgr24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def all_of(path: Path) -> tuple[list[float], list[video.Pixels]]:
    """Time stamps and pictures."""
    opened, stamps, pictures = open_video(str(path)), [], []
    while (stamp := opened.grab()) is not None:
        stamps.append(stamp)
        pixels = opened.retrieve()
        assert pixels is not None
        pictures.append(pixels)
    assert opened.grab() is None
    opened.close()
    return stamps, pictures


def without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "size"),
    [
        ("mpeg4", "yuv420p", SIZE),
        ("mjpeg", "yuvj420p", SIZE),
        ("mjpeg", "yuvj422p", SIZE),
        ("ffv1", "yuv420p", (63, 47)),
        ("ffv1", "yuv444p", SIZE),
        ("ffv1", "yuv420p10le", SIZE),
        ("ffv1", "gray", SIZE),
    ],
)
def test_both_decoders_give_the_same_pictures(
    codec: str, pixel_format: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "video.mkv"
    write(path, codec, pixel_format, size)
    stamps, ours = all_of(path)
    assert {isinstance(pixels, Planes) for pixels in ours} == {pixel_format == "yuv420p" and size == SIZE}
    without_pyav(monkeypatch)
    theirs_at, theirs = all_of(path)
    assert np.allclose(stamps, theirs_at, atol=1e-3) and np.allclose(stamps, np.arange(5) / 20, atol=2e-3)
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert bgr(mine).shape == bgr(other).shape == (size[1], size[0], 3)
        assert np.abs(bgr(mine).astype(int) - bgr(other)).mean() < 2
        if pixel_format != "gray":
            assert np.abs(bgr(mine).astype(int) - picture(index, size)).mean() < 5


def test_a_video_that_says_it_is_turned_is_turned(tmp_path: Path) -> None:
    """As a telephone held upright says; OpenCV 5 does not look."""
    path = tmp_path / "turned.mp4"
    write(path, "mpeg4", "yuv420p", SIZE)
    data = path.read_bytes()
    matrix = data.index(b"tkhd") + 4 + 36  # behind version, times, number, duration, layer and volume
    quarter = b"".join(value.to_bytes(4, "big", signed=True) for value in (0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0))
    path.write_bytes(data[:matrix] + quarter + data[matrix + len(quarter) :])
    _, pictures = all_of(path)
    assert np.abs(bgr(pictures[0]).astype(int) - np.rot90(picture(0, SIZE), -1)).mean() < 5


def test_pixels_outlive_the_video(tmp_path: Path) -> None:
    path = tmp_path / "video.mkv"
    write(path, "ffv1", "yuv420p", SIZE)
    _, pictures = all_of(path)
    kept = [bgr(pixels) for pixels in pictures]
    write(tmp_path / "other.mkv", "ffv1", "yuv420p", SIZE)
    all_of(tmp_path / "other.mkv")
    for before, pixels in zip(kept, pictures, strict=True):
        np.testing.assert_array_equal(before, bgr(pixels))
    assert not np.array_equal(kept[0], kept[-1])


@pytest.mark.parametrize("pyav", [True, False])
def test_what_has_no_pictures_is_refused(pyav: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not pyav:
        without_pyav(monkeypatch)
    (tmp_path / "text.mp4").write_text("this is no video")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    for name in ("text.mp4", "sound.mp4", "missing.mp4"):
        with pytest.raises(OSError, match=r"\.mp4"):
            open_video(str(tmp_path / name))


@pytest.mark.parametrize("pyav", [True, False])
@pytest.mark.parametrize(("size", "threads"), [((640, 360), 1), ((1920, 1080), None)])
def test_small_pictures_are_decoded_by_one_thread_and_large_ones_by_as_many_as_there_are(
    pyav: bool, size: tuple[int, int], threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "video.mp4"
    write(path, "mpeg4", "yuv420p", size)
    if pyav:
        opened = open_video(str(path))
        assert opened._stream.codec_context.thread_count == (threads or 0)  # type: ignore[attr-defined]
    else:
        without_pyav(monkeypatch)
        opened = open_video(str(path))
        usual = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_N_THREADS)
        assert opened._capture.get(cv2.CAP_PROP_N_THREADS) == (threads or usual)  # type: ignore[attr-defined]
    opened.close()
