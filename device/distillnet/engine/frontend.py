"""From a stream of sound to a student's scores: streaming log-mel features in C, then one decision per stride.

`LogMel` is the front-end of one stream, `Listener` a student listening to it. Every hop is analysed once, however much
the windows of two decisions overlap. The definition of the features is `distillnet.engine.log_mel`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillnet.engine import _engine
from distillnet.engine.backend import ModelError
from distillnet.engine.log_mel import Samples
from distillnet.engine.student import Student
from distillnet.proto.card import AudioInput


class LogMel:
    """The front-end of one stream. One thread at a time."""

    def __init__(
        self, spec: AudioInput, rate_hz: int | None = None, *, scale: float = 1.0, zero_point: int = 0
    ) -> None:
        """Prepare for sound of `rate_hz` (None = the spec's) and rows quantised with `scale` and `zero_point`.

        Raises:
            ModelError: the spec is no front-end the engine can build, or the rate is out of range.

        """
        self._bands = spec.mel_bands
        self._scale, self._zero_point = scale, zero_point
        try:
            self._frontend = _engine.Frontend(
                input_rate_hz=rate_hz or spec.sample_rate_hz,
                sample_rate_hz=spec.sample_rate_hz,
                window_samples=spec.window_samples,
                hop_samples=spec.hop_samples,
                fft_samples=spec.fft_samples,
                mel_bands=spec.mel_bands,
                low_hz=spec.low_hz,
                high_hz=spec.high_hz,
                log_offset=spec.log_offset,
                mean=spec.mean,
                scale=spec.scale,
            )
        except (ValueError, OverflowError) as exc:
            raise ModelError(str(exc)) from exc

    def push(self, samples: Samples) -> NDArray[np.int8]:
        """Take the stream's next samples; returns the rows they complete, int8 (rows, mel_bands)."""
        rows = self._frontend.quantised(_contiguous(samples), self._scale, self._zero_point)
        return np.frombuffer(rows, np.int8).reshape(-1, self._bands)

    def features(self, samples: Samples) -> NDArray[np.float32]:
        """As `push`, before quantisation: float32 (rows, mel_bands)."""
        return np.frombuffer(self._frontend.features(_contiguous(samples)), np.float32).reshape(-1, self._bands)

    def reset(self) -> None:
        """Forget the past: the next sample is the first of a new stream."""
        self._frontend.reset()


@dataclass(frozen=True, slots=True)
class Hearing:
    """One decision."""

    t: float
    """Seconds since the stream's first sample at which the heard window ends."""
    scores: NDArray[np.float32] | None
    """float32 (K+1,), 0–1, sum 1, in output order; None where inference was not asked for."""


class Listener:
    """One student listening to one stream. One thread at a time, and one listener per stream."""

    def __init__(self, student: Student, rate_hz: int) -> None:
        """Listen to sound of `rate_hz`.

        Raises:
            ModelError: the student looks at pictures, or its front-end cannot be built for this rate.

        """
        if not isinstance(student.card.input, AudioInput):
            raise ModelError(f"student {student.card.application!r} looks at pictures; it cannot hear")
        self.student = student
        self._spec = spec = student.card.input
        quantisation = student.model.info["input"]
        self._log_mel = LogMel(spec, rate_hz, scale=quantisation["scale"], zero_point=quantisation["zero_point"])
        self._window = np.zeros((spec.frames, spec.mel_bands), np.int8)
        self.reset()

    def reset(self, t: float = 0.0) -> None:
        """Forget the past, after a gap: the next sample is at `t` seconds and the window fills anew."""
        self._log_mel.reset()
        self._start = t
        self._rows = 0
        self._missing = self._spec.frames

    def push(self, samples: Samples, *, infer: bool = True) -> list[Hearing]:
        """Take the stream's next samples; returns the decisions they complete, oldest first.

        Args:
            samples: float32 (n,), mono, full scale ±1.
            infer: False keeps the features current without running the network (a closed gate).

        """
        hearings: list[Hearing] = []
        rows = self._log_mel.push(samples)
        while len(rows) >= self._missing:
            self._shift(rows[: self._missing])
            rows = rows[self._missing :]
            self._missing = self._spec.stride_frames
            hearings.append(Hearing(self._t(), self._scores() if infer else None))
        self._shift(rows)
        self._missing -= len(rows)
        return hearings

    def _shift(self, rows: NDArray[np.int8]) -> None:
        self._rows += len(rows)
        kept = self._window[len(rows) :] if len(rows) < len(self._window) else self._window[:0]
        self._window = np.concatenate([kept, rows])[-self._spec.frames :]

    def _t(self) -> float:
        samples = (self._rows - 1) * self._spec.hop_samples + self._spec.window_samples
        return self._start + samples / self._spec.sample_rate_hz

    def _scores(self) -> NDArray[np.float32]:
        logits = self.student.model.run_tensor(self._window[np.newaxis, :, :, np.newaxis])
        scores: NDArray[np.float32] = self.student.scores_of(logits)[0]
        return scores


def _contiguous(samples: Samples) -> Samples:
    return np.ascontiguousarray(samples, np.float32)
