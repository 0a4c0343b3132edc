"""From a trained student to its file: int8 conversion, card, golden vectors. For the pipeline and the evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch

from distillnet.cloud.audio.students import DsCnn
from distillnet.cloud.audio.teacher import Floats, SoundTeacher
from distillnet.cloud.export import dequantise, golden_vectors, input_tensor, run_int8, to_int8
from distillnet.cloud.rejection import Decision
from distillnet.engine import Model
from distillnet.engine import load as load_model
from distillnet.proto.archive import pack
from distillnet.proto.card import AudioInput, Card, CardEvent, DataInfo, Metric, TeacherInfo

CALIBRATION_WINDOWS = 96


@dataclass(frozen=True)
class Converted:
    """An int8 student in the engine."""

    flatbuffer: bytes
    model: Model

    def logits(self, features: Floats) -> Floats:
        """Return logits (N, K+1) for normalised log-mel windows (N, frames, bands)."""
        inputs = input_tensor(self.model, features[..., np.newaxis])
        return dequantise(self.model, run_int8(self.model, inputs))


def convert(student: DsCnn, features: Floats) -> Converted:
    """Convert with real windows, float32 (N, frames, bands), normalised.

    Raises:
        ConfigError: a converter refuses.

    """
    chosen = features[:: max(1, len(features) // CALIBRATION_WINDOWS)][:CALIBRATION_WINDOWS]
    flatbuffer = to_int8(student, torch.from_numpy(np.ascontiguousarray(chosen)).unsqueeze(1))
    return Converted(flatbuffer, load_model(flatbuffer, "auto"))


def packed(
    converted: Converted,
    *,
    application: str,
    events: Sequence[tuple[str, list[str]]],
    decision: Decision,
    spec: AudioInput,
    teacher: SoundTeacher,
    data: Sequence[DataInfo],
    golden: Floats,
    metrics: Sequence[Metric] = (),
    seed: int = 0,
    revision: str = "",
) -> bytes:
    """Return the student file.

    Args:
        converted: the network.
        application: its name.
        events: name and teacher classes of each, in output order; `other` is last.
        decision: temperature and thresholds.
        spec: the front-end.
        teacher: where the knowledge comes from.
        data: where the sounds come from.
        golden: real windows, float32 (n, frames, bands), normalised; the first few become golden vectors.
        metrics: what was measured.
        seed: of the training.
        revision: of the sources, where known.

    """
    card = Card(
        application=application,
        events=[
            CardEvent(
                name=name,
                index=index,
                classes=classes,
                threshold=decision.enter[index],
                exit_threshold=decision.leave[index],
            )
            for index, (name, classes) in enumerate(events)
        ],
        other=len(events),
        temperature=decision.temperature,
        input=spec,
        metrics=list(metrics),
        teacher=TeacherInfo(name=teacher.source, source=teacher.source, digest=teacher.digest),
        data=list(data),
        seed=seed,
        git_revision=revision,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return pack(converted.flatbuffer, card, golden_vectors(converted.flatbuffer, golden[..., np.newaxis]))
