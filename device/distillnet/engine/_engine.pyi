"""The C extension. Arrays must be C-contiguous; the buffer protocol checks it."""

from typing import Any

from numpy.typing import NDArray

class LoadError(Exception): ...
class UnsupportedError(Exception): ...

class Model:
    def __new__(cls, data: bytes, threads: int, max_arena_bytes: int, kernels: str | None) -> Model: ...
    def run(self, input: NDArray[Any], output: NDArray[Any], /) -> None: ...
    def look(
        self,
        frame: NDArray[Any],
        layout: int,
        frame_size: tuple[int, int],
        boxes: NDArray[Any],
        tensor_size: tuple[int, int],
        colour: int,
        table: NDArray[Any],
        tensor: NDArray[Any],
        outputs: NDArray[Any],
        /,
    ) -> tuple[float, float]: ...
    def info(self) -> dict[str, Any]: ...
    def profile(self) -> list[dict[str, Any]]: ...

def image_tensor(
    frame: NDArray[Any],
    layout: int,
    frame_size: tuple[int, int],
    box: tuple[int, int, int, int],
    tensor_size: tuple[int, int],
    area: bool,
    colour: int,
    table: NDArray[Any],
    tensor: NDArray[Any],
    /,
) -> None: ...
def shares(logits: NDArray[Any], weights: NDArray[Any], shares: NDArray[Any], /) -> None:
    """Fill `shares`, float32 (n,): weights[max - logit] over their sum; logits int8 (n,), weights float64 (256,)."""

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
