"""A student ready to run: its card, its model, scores for a frame, and the self-test with its golden vectors."""

import io
import math
import zipfile
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from distillnet.engine.backend import Backend, Model, ModelError, Zone, load
from distillnet.engine.preprocess import Frame, Preparation, Scores, contiguous, scores_of
from distillnet.proto.archive import StudentFile, digest, unpack
from distillnet.proto.card import Card, ImageInput

_MAX_GOLDEN_BYTES = 32 << 20
_MOST_PREPARATIONS = 64


@dataclass(slots=True)
class Look:
    """What a student saw on one frame: K+1 scores of each zone, and what that took."""

    scores: list[list[float]]
    prepare_ms: float
    infer_ms: float


@dataclass(frozen=True)
class Student:
    """One loaded student. One thread at a time, as its model."""

    card: Card
    digest: str
    model: Model
    golden: bytes

    @classmethod
    def load(cls, data: bytes, *, engine: Backend = "auto", threads: int = 1, max_arena_bytes: int = 64 << 20) -> Self:
        """Load a student file's bytes.

        Raises:
            StudentError: the archive or the card is bad.
            ModelError: the flatbuffer is bad, or does not fit its card.

        """
        file: StudentFile = unpack(data)
        model = load(file.model, engine, threads=threads, max_arena_bytes=max_arena_bytes)
        _check_fits(model, file.card)
        return cls(card=file.card, digest=digest(data), model=model, golden=file.golden)

    def look(self, frame: Frame, zones: tuple[Zone | None, ...]) -> Look:
        """Score the zones of a frame, BGR or YUV, in one call of the engine; None = all of the frame.

        Raises:
            ModelError: not such a frame, a zone outside it, or this student hears.

        """
        key = (frame.shape, zones)
        preparation = self._preparations.get(key)
        if preparation is None:
            if not isinstance(self.card.input, ImageInput):
                raise ModelError(f"student {self.card.application!r} hears; it cannot look at a frame")
            if len(self._preparations) >= _MOST_PREPARATIONS:
                self._preparations.clear()  # a stream that keeps changing its size
            quantisation = self._info["input"]
            preparation = Preparation(
                frame.shape,
                zones,
                self.card.input,
                quantisation["scale"],
                quantisation["zero_point"],
                self._weights,
            )
            self._preparations[key] = preparation
        return Look(*self.model.look(contiguous(frame), preparation))

    def scores(self, frame: Frame, zone: Zone | None = None) -> Scores:
        """Score a frame, BGR or YUV; returns float32 (K+1,), 0–1, sum 1, in output order."""
        return np.array(self.look(frame, (zone,)).scores[0], np.float32)

    def scores_of(self, output: NDArray[np.int8]) -> Scores:
        """Turn int8 logits, K+1 of each of n inputs, (n, …), into calibrated scores, float32 (n, K+1)."""
        return scores_of(output, self._weights)

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """exp(-d) for each distance of an int8 logit from the largest one, in the student's scale and temperature."""
        step = self._info["output"]["scale"] / self.card.temperature
        return np.array([math.exp(-distance * step) for distance in range(256)])

    @cached_property
    def _preparations(self) -> dict[tuple[tuple[int, ...], tuple[Zone | None, ...]], Preparation]:
        return {}

    @cached_property
    def _info(self) -> dict[str, Any]:
        return self.model.info  # asked for with every frame

    def self_test(self) -> int:
        """Run the golden vectors; returns how many there are.

        Raises:
            ModelError: they are missing or malformed, or an output differs by even one step (by a few on accelerators).

        """
        inputs, outputs = self._golden()
        for index, (x, expected) in enumerate(zip(inputs, outputs, strict=True)):
            got = self.model.run_tensor(x[np.newaxis]).reshape(-1)
            if np.abs(got.astype(int) - expected).max() > self.model.info.get("tolerance_steps", 0):
                raise ModelError(f"golden vector {index}: expected {expected.tolist()}, got {got.tolist()}")
        return len(inputs)

    def _golden(self) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        try:
            with zipfile.ZipFile(io.BytesIO(self.golden)) as archive:
                if sum(info.file_size for info in archive.infolist()) > _MAX_GOLDEN_BYTES:
                    raise ModelError(f"golden.npz unpacks to more than {_MAX_GOLDEN_BYTES} bytes")
            with np.load(io.BytesIO(self.golden), allow_pickle=False) as arrays:
                inputs, outputs = arrays["inputs"], arrays["outputs"]
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as exc:
            raise ModelError(f"golden.npz is not readable: {exc}") from exc
        shape = self.model.info["input"]["shape"]
        expected = (len(self.card.events) + 1,)
        if len(inputs) == 0 or inputs.shape[1:] != shape[1:] or outputs.shape != (len(inputs), *expected):
            raise ModelError(f"golden.npz has inputs {inputs.shape} and outputs {outputs.shape}; model wants {shape}")
        return inputs, outputs


def _check_fits(model: Model, card: Card) -> None:
    outputs = len(card.events) + 1
    info = model.info
    if info["output"]["dtype"] != "int8" or int(np.prod(info["output"]["shape"])) != outputs:
        raise ModelError(f"card has {outputs} outputs; model gives {info['output']['dtype']} {info['output']['shape']}")
    spec = card.input
    if isinstance(spec, ImageInput):
        wanted = (1, spec.height, spec.width, 1 if spec.colour == "grey" else 3)
    else:
        wanted = (1, spec.frames, spec.mel_bands, 1)
    if info["input"]["dtype"] != "int8" or tuple(info["input"]["shape"]) != wanted:
        raise ModelError(
            f"card wants input int8 {wanted}; model takes {info['input']['dtype']} {info['input']['shape']}"
        )
