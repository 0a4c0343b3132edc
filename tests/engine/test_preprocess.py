"""The C pre-processing is the NumPy definition bit for bit, and OpenCV's within one step."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillnet.engine import ModelError
from distillnet.engine.preprocess import Planes, crop, image_tensor, reference_tensor, to_bgr
from distillnet.proto.card import ImageInput

IDENTITY = {"mean": 128.0, "scale": 1.0}  # with scale 1, zero point 0: tensor = pixel - 128


def _frame(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return frame if seed % 2 else cv2.GaussianBlur(frame, (5, 5), 0)


@settings(deadline=None, max_examples=150, database=None)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    out=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    colour=st.sampled_from(["rgb", "bgr", "grey"]),
    resize=st.sampled_from(["area", "bilinear"]),
    zone=st.sampled_from(
        [None, (0.0, 0.0, 1.0, 1.0), (0.25, 0.1, 0.75, 0.95), (0.5, 0.5, 0.51, 0.51), (0.9, 0.9, 1.0, 1.0)]
    ),
)
def test_c_equals_definition(seed, size, out, colour, resize, zone) -> None:
    spec = ImageInput(height=out[0], width=out[1], colour=colour, resize=resize, mean=120.0, scale=60.0)
    frame = _frame(seed, *size)
    got = image_tensor(frame, spec, 0.0173, -3, zone)
    np.testing.assert_array_equal(got, reference_tensor(frame, spec, 0.0173, -3, zone))


@pytest.mark.parametrize("resize", ["area", "bilinear"])
@pytest.mark.parametrize("size", [(720, 1280), (480, 640), (97, 193), (96, 96), (101, 96)])
def test_within_one_step_of_opencv(size, resize) -> None:
    frame = _frame(2, *size)
    spec = ImageInput(height=96, width=96, colour="bgr", resize=resize, **IDENTITY)
    method = cv2.INTER_AREA if resize == "area" else cv2.INTER_LINEAR
    theirs = cv2.resize(frame, (96, 96), interpolation=method).astype(int)
    ours = image_tensor(frame, spec, 1.0, 0)[0].astype(int) + 128
    assert np.abs(ours - theirs).max() <= 1


def test_grey_is_within_one_step_of_opencv() -> None:
    frame = _frame(1, 64, 64)
    spec = ImageInput(height=64, width=64, colour="grey", **IDENTITY)
    ours = image_tensor(frame, spec, 1.0, 0)[0, ..., 0].astype(int) + 128
    assert np.abs(ours - cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)).max() <= 1


LAYOUTS = {"YUYV": cv2.COLOR_YUV2BGR_YUY2, "NV12": cv2.COLOR_YUV2BGR_NV12}


def _yuv(layout: str, seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 2) if layout == "YUYV" else (height // 2 * 3, width), dtype=np.uint8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("colour", ["bgr", "rgb", "grey"])
@pytest.mark.parametrize("resize", ["area", "bilinear"])
@pytest.mark.parametrize(("size", "zone"), [((90, 122), None), ((30, 22), (0.3, 0.07, 0.93, 0.8)), ((2, 2), None)])
def test_camera_layouts_are_the_definition_and_within_one_step_of_opencv(layout, colour, resize, size, zone) -> None:
    frame = _yuv(layout, 3, *size)
    spec = ImageInput(height=16, width=24, colour=colour, resize=resize, **IDENTITY)
    got = image_tensor(frame, spec, 1.0, 0, zone)
    np.testing.assert_array_equal(got, reference_tensor(frame, spec, 1.0, 0, zone))
    pixels = crop(cv2.cvtColor(frame, LAYOUTS[layout]), zone)
    shrinking = resize == "area" and pixels.shape[0] >= 16 and pixels.shape[1] >= 24
    theirs = cv2.resize(pixels, (24, 16), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    if colour != "bgr":
        theirs = cv2.cvtColor(theirs, cv2.COLOR_BGR2RGB if colour == "rgb" else cv2.COLOR_BGR2GRAY)
    assert np.abs(got[0].astype(int) + 128 - theirs.reshape(got.shape[1:])).max() <= 1


def _planes(seed: int, height: int, width: int) -> Planes:
    """Planes in rows that are longer than the frame is wide, as decoders have them."""
    rng = np.random.default_rng(seed)
    rows = [(height, width + 32), (height // 2, width // 2 + 7), (height // 2, width // 2)]
    y, u, v = (rng.integers(0, 256, shape, dtype=np.uint8).tobytes() for shape in rows)
    return Planes(y, u, v, height, width)


@settings(deadline=None, max_examples=150, database=None)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    out=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    colour=st.sampled_from(["rgb", "bgr", "grey"]),
    resize=st.sampled_from(["area", "bilinear"]),
    zone=st.sampled_from([None, (0.25, 0.1, 0.75, 0.95), (0.5, 0.5, 0.51, 0.51), (0.9, 0.9, 1.0, 1.0)]),
)
def test_planes_are_the_definition(seed, size, out, colour, resize, zone) -> None:
    spec = ImageInput(height=out[0], width=out[1], colour=colour, resize=resize, mean=120.0, scale=60.0)
    planes = _planes(seed, 2 * size[0], 2 * size[1])
    got = image_tensor(planes, spec, 0.0173, -3, zone)
    np.testing.assert_array_equal(got, reference_tensor(planes, spec, 0.0173, -3, zone))


@pytest.mark.parametrize("size", [(96, 96), (60, 80), (150, 200)])
def test_planes_of_a_picture_are_within_two_steps_of_converting_them_first(size) -> None:
    """Of colours that there are; of noise, where conversion clips, nothing like that is true."""
    height, width = 360, 640
    rng = np.random.default_rng(0)
    picture = cv2.resize(
        rng.integers(40, 216, (9, 16, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    stacked = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420).reshape(-1)
    y, u, v = np.split(stacked, [height * width, height * width * 5 // 4])
    planes = Planes(y, u, v, height, width)
    np.testing.assert_array_equal(to_bgr(planes), cv2.cvtColor(stacked.reshape(-1, width), cv2.COLOR_YUV2BGR_I420))
    spec = ImageInput(height=size[0], width=size[1], **IDENTITY)
    got, first = (image_tensor(frame, spec, 1.0, 0).astype(int) for frame in (planes, to_bgr(planes)))
    assert np.abs(got - first).max() <= 2
    assert abs(float((got - first).mean())) < 0.1


def test_planes_that_do_not_fit_each_other_are_refused() -> None:
    y, u, v = _planes(0, 8, 8)[:3]
    spec = ImageInput(height=2, width=2)
    for planes in (Planes(y, u, v[:-1], 8, 8), Planes(y, u, v[:8], 8, 8), Planes(y[:32], u, v, 8, 8)):
        with pytest.raises(ModelError, match="not of this view's layout and size"):
            image_tensor(planes, spec, 1.0, 0)
    with pytest.raises(ModelError, match="Planes of even sides"):
        image_tensor(Planes(y, u, v, 7, 8), spec, 1.0, 0)


def test_views_and_white_frames() -> None:
    frame = np.full((400, 600, 3), 255, np.uint8)
    spec = ImageInput(height=7, width=13, **IDENTITY)
    assert (image_tensor(frame[::2, 5:500:3], spec, 1.0, 0) == 127).all()


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros((3, 5), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(frame) -> None:
    with pytest.raises(ModelError, match=r"must be uint8 \(H, W, 3\)"):
        image_tensor(frame, ImageInput(height=2, width=2), 1.0, 0)


def test_a_zone_outside_the_frame_is_refused() -> None:
    with pytest.raises(ModelError, match="crop"):
        image_tensor(np.zeros((8, 8, 3), np.uint8), ImageInput(height=2, width=2), 1.0, 0, (0.0, 0.0, 2.0, 1.0))
