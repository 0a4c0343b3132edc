"""Chunks of all sound sources to scores: one listener per source, begun anew after a gap or with another student."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillnet.device.frames import Chunk
from distillnet.device.sound.gate import SoundGate
from distillnet.engine.frontend import Listener
from distillnet.engine.student import Student


@dataclass(frozen=True, slots=True)
class Heard:
    """One decision's scores and when its window ends."""

    t: float
    """On the clock that never jumps."""
    ts: float
    """Unix seconds."""
    scores: NDArray[np.float32]
    """float32 (K+1,); with a closed gate all of it is `other`."""
    inferred: bool


@dataclass
class _Stream:
    listener: Listener
    gate: SoundGate
    rate_hz: int
    next_index: int
    position_s: float
    """The listener's time of the next chunk's first sample."""


class Ears:
    """Everything that is being listened to. One thread at a time."""

    def __init__(self) -> None:
        """Begin with no stream."""
        self._streams: dict[str, _Stream] = {}

    def hear(self, student: Student, chunk: Chunk, *, gated: bool = False) -> list[Heard]:
        """Take a source's next chunk; returns the decisions it completes, none or a few.

        Args:
            student: who listens; another one than last time begins anew.
            chunk: dropped or lost samples before it begin the window anew.
            gated: skip inference while nothing sounds.

        Raises:
            ModelError: the student does not hear, or fails.

        """
        stream = self._stream(student, chunk)
        opens = not gated or stream.gate.opens(chunk.samples, chunk.rate_hz)
        begin_s = stream.position_s
        stream.position_s += len(chunk.samples) / chunk.rate_hz
        stream.next_index = chunk.index + 1
        return [
            Heard(
                t=hearing.t,
                ts=chunk.ts + hearing.t - begin_s,
                scores=_nothing(student) if hearing.scores is None else hearing.scores,
                inferred=hearing.scores is not None,
            )
            for hearing in stream.listener.push(chunk.samples, infer=opens)
        ]

    def forget(self, source: str) -> None:
        """Let a source go."""
        self._streams.pop(source, None)

    def _stream(self, student: Student, chunk: Chunk) -> _Stream:
        stream = self._streams.get(chunk.source)
        if stream is None or stream.listener.student is not student or stream.rate_hz != chunk.rate_hz:
            listener = Listener(student, chunk.rate_hz)
            listener.reset(chunk.t)
            stream = _Stream(listener, SoundGate(), chunk.rate_hz, chunk.index, chunk.t)
            self._streams[chunk.source] = stream
        elif chunk.index != stream.next_index or chunk.lost:
            stream.listener.reset(chunk.t)
            stream.position_s = chunk.t
        return stream


def _nothing(student: Student) -> NDArray[np.float32]:
    scores = np.zeros(len(student.card.events) + 1, np.float32)
    scores[student.card.other] = 1.0
    return scores
