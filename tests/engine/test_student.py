"""A student's scores for a frame: of a zone as of the crop, the same from both engines."""

import numpy as np
import pytest

from distillnet.engine import ModelError
from distillnet.engine.preprocess import Preparation
from distillnet.engine.student import Student
from distillnet.engine.tflite_writer import Builder
from distillnet.proto.archive import pack
from distillnet.proto.card import Card, CardEvent, ImageInput, TeacherInfo

ZONE = (0.25, 0.5, 1.0, 0.9)


def student_bytes() -> bytes:
    """One whose logits are the mean colours."""
    b = Builder()
    x = b.tensor((1, 8, 8, 3), 1 / 255, -128)
    axes = b.tensor((2,), dtype="int32", data=np.array([1, 2], np.int32))
    y = b.tensor((1, 3), 1 / 32, -128)
    b.op("MEAN", [x, axes], [y], "ReducerOptions", keepDims=False)
    card = Card(
        application="colours",
        version=1,
        events=[CardEvent(name=name, index=i, threshold=0.6, exit_threshold=0.4) for i, name in enumerate(("r", "g"))],
        other=2,
        input=ImageInput(height=8, width=8, mean=0.0, scale=255.0),
        teacher=TeacherInfo(name="hand-made", source="tests"),
    )
    return pack(b.build([x], [y]), card, b"")


@pytest.mark.parametrize("engine", ["native", "litert"])
def test_scores_of_a_zone_are_those_of_the_crop(engine: str) -> None:
    student = Student.load(student_bytes(), engine=engine)
    frame = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8) // (1, 2, 4)
    frame = np.ascontiguousarray(frame, np.uint8)
    scores = student.scores(frame, ZONE)
    np.testing.assert_array_equal(scores, student.scores(np.ascontiguousarray(frame[30:54, 20:80])))
    np.testing.assert_array_equal(scores, student.look(frame, (None, ZONE)).scores[1])
    np.testing.assert_array_equal(scores, Student.load(student_bytes(), engine="litert").scores(frame, ZONE))
    assert scores.shape == (3,) and scores.sum() == pytest.approx(1, abs=1e-6) and len(set(scores.tolist())) == 3


def test_scores_are_the_softmax_of_the_logits_at_the_cards_temperature() -> None:
    student = Student.load(student_bytes())
    logits = np.array([-128, 127, 120], np.int8)
    real = logits * np.float64(student.model.info["output"]["scale"]) / student.card.temperature
    weights = np.exp(real - real.max())
    scores = student.scores_of(logits[np.newaxis])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [weights / weights.sum()], rtol=1e-6)


@pytest.mark.parametrize("engine", ["native", "litert"])
def test_a_frame_of_another_size_than_prepared_for_is_refused(engine: str) -> None:
    model = Student.load(student_bytes(), engine=engine).model
    preparation = Preparation((60, 80, 3), [None], ImageInput(height=8, width=8), 1.0, 0)
    with pytest.raises(ModelError, match="frame"):
        model.look(np.zeros((60, 81, 3), np.uint8), preparation)


def test_each_row_of_logits_has_scores_of_its_own() -> None:
    student = Student.load(student_bytes())
    logits = np.random.default_rng(0).integers(-128, 128, (4, 3), dtype=np.int8)
    rows = [student.scores_of(row[np.newaxis])[0] for row in logits]
    np.testing.assert_array_equal(student.scores_of(logits), rows)
    np.testing.assert_array_equal(student.scores_of(logits.reshape(4, 3, 1, 1)), rows)
