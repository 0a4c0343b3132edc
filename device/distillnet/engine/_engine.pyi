"""The C extension. Arrays must be C-contiguous, planes of a frame excepted; the buffer protocol checks it."""

from typing import Any

from numpy.typing import NDArray

from distillnet.engine.preprocess import Frame

class LoadError(Exception): ...
class UnsupportedError(Exception): ...

class Model:
    def __new__(cls, data: bytes, threads: int, max_arena_bytes: int, kernels: str | None) -> Model: ...
    def run(self, input: NDArray[Any], output: NDArray[Any], /) -> None: ...
    def look(self, frame: Frame, view: View, n: int, /) -> tuple[list[list[float]], float, float]:
        """Run on all zones of a frame; returns n scores of each, and what preparing and running took, ms.

        Raises ValueError for sizes that do not fit each other, and for zones outside the frame or too large.
        """
    def info(self) -> dict[str, Any]: ...
    def profile(self) -> list[dict[str, Any]]: ...

class View:
    """How frames of one size become a model's input, zone by zone, and its output scores; see `Preparation`."""

    def __new__(
        cls,
        layout: int,
        frame_size: tuple[int, int],
        boxes: NDArray[Any],
        tensor_size: tuple[int, int],
        colour: int,
        table: NDArray[Any],
        weights: NDArray[Any],
    ) -> View: ...
    def fill(self, frame: Frame, zone: int, tensor: NDArray[Any], /) -> None:
        """Crop, resize, colour and quantise one zone of a frame; raises ValueError as `Model.look`."""

def shares(logits: NDArray[Any], n: int, weights: NDArray[Any], shares: NDArray[Any], /) -> None:
    """Fill `shares`, float32 (rows, n): weights[max - logit] over their sum, row by row.

    `logits` int8 (rows, n), `weights` float64 (256,).
    """

def version() -> str: ...
def kernel_names() -> list[str]: ...

class Frontend:
    """Streaming log-mel features, see frontend.h. One thread at a time."""

    def __new__(
        cls,
        *,
        input_rate_hz: int,
        sample_rate_hz: int,
        window_samples: int,
        hop_samples: int,
        fft_samples: int,
        mel_bands: int,
        low_hz: float,
        high_hz: float,
        log_offset: float,
        mean: float,
        scale: float,
    ) -> Frontend:
        """Raise ValueError for a field out of range or rates whose ratio needs too large a filter."""

    def features(self, samples: Any) -> bytes:
        """Push float32 (n,); returns the rows completed, float32 (rows, mel_bands)."""

    def quantised(self, samples: Any, scale: float, zero_point: int, /) -> bytes:
        """Push float32 (n,); returns the rows completed, int8 (rows, mel_bands)."""

    def reset(self) -> None:
        """Forget the past."""
