"""The teacher that hears: a network from a waveform to many classes, and a head on its features.

`load` understands `soundnet`, `torch:MODULE:ATTRIBUTE`, and the black boxes `file:TEACHER.tflite` and
`onnx:TEACHER.onnx`. The features are what goes into the last matrix product; a flatbuffer is rewritten to give it as a
second output, so that a black box teaches more than its classes, at its usual speed. An ONNX teacher's second output
is its features; where it has none, its logits are.
"""

import csv
import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillnet.cloud.application import TeacherSection, check_teacher
from distillnet.cloud.audio import soundnet
from distillnet.cloud.classes import ClassList
from distillnet.cloud.teacher import imported_module, last_layer, state_digest
from distillnet.proto.strict import ConfigError

Floats = NDArray[np.float32]
Hear = Callable[[Floats], tuple[Floats, Floats]]

SECOND = 16000
"""Samples a network hears at once that does not say how many it wants."""
_BATCH = 64
_LOGISTIC, _SOFTMAX, _FULLY_CONNECTED = 14, 25, 9


@dataclass(frozen=True)
class SoundTeacher:
    """A network that knows many sounds."""

    source: str
    classes: ClassList
    samples: int
    """How many it hears at once, mono, 16 kHz."""
    digest: str
    hear: Hear
    """float32 (N, samples) to logits (N, classes), none of a teacher that has only features, and features (N, F)."""

    def probabilities(self, logits: Floats) -> Floats:
        """Sigmoid: several sounds may be there at once; float32 (N, classes)."""
        return (1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))).astype(np.float32)


def load(section: TeacherSection, base: Path) -> SoundTeacher:
    """Load the teacher an application names; `classes_file` names its classes (one a line, or YAMNet's class map).

    Raises:
        ConfigError: missing, or no network from a waveform to classes.

    """
    check_teacher(section.source, "audio")
    kind, _, rest = section.source.partition(":")
    if section.source == "soundnet":
        return _soundnet(section)
    if kind == "torch":
        samples, outputs, digest, hear = _torch_network(rest)
    else:
        path = base / rest
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise ConfigError(f"[teacher] source {section.source!r}: {path} cannot be read: {exc.strerror}") from exc
        samples, outputs, hear = (_waveform_network if kind == "file" else _onnx_network)(data, path)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    classes = _classes(base / section.classes_file) if section.classes_file else ClassList.numbered(outputs)
    if len(classes) != outputs:
        raise ConfigError(f"teacher {section.source!r} gives {outputs} classes; classes_file names {len(classes)}")
    return SoundTeacher(section.source, classes, samples, digest, hear)


def _soundnet(section: TeacherSection) -> SoundTeacher:
    if section.classes_file is not None:
        raise ConfigError("[teacher] classes_file: soundnet teaches by its features; it has no classes to name")
    network, digest = soundnet.load()

    def hear(windows: Floats) -> tuple[Floats, Floats]:
        return np.zeros((len(windows), 0), np.float32), _in_batches(network, windows)

    return SoundTeacher(section.source, ClassList(()), soundnet.SAMPLES, digest, hear)


def _torch_network(name: str) -> tuple[int, int, str, Hear]:
    """Take a module from float32 (N, `SECOND`) to logits (N, C)."""
    module = imported_module(name)
    linear = last_layer(module)
    felt: list[Floats] = []
    if linear is not None:
        linear.register_forward_pre_hook(lambda _, given: felt.append(given[0].numpy()))

    def hear(windows: Floats) -> tuple[Floats, Floats]:
        felt.clear()
        logits = _in_batches(module, windows)
        whole = bool(felt) and all(part.ndim == 2 for part in felt)
        features = np.concatenate(felt) if whole else logits
        return logits, features if len(features) == len(logits) else logits

    try:
        logits, _ = hear(np.zeros((1, SECOND), np.float32))
    except (RuntimeError, ValueError, TypeError, IndexError) as exc:
        raise ConfigError(f"teacher 'torch:{name}' does not take one second, (1, {SECOND}): {exc}") from exc
    if logits.ndim != 2:
        raise ConfigError(f"teacher 'torch:{name}' gives {logits.shape}; expected logits (1, classes)")
    return SECOND, logits.shape[1], state_digest(module), hear


def _in_batches(module: torch.nn.Module, windows: Floats) -> Floats:
    with torch.inference_mode():
        parts = [module(torch.from_numpy(windows[at : at + _BATCH])).numpy() for at in range(0, len(windows), _BATCH)]
    return np.concatenate(parts)


def _onnx_network(data: bytes, path: Path) -> tuple[int, int, Hear]:
    try:
        import onnxruntime
    except ImportError as exc:
        raise ConfigError(f"teacher {path} needs onnxruntime: pip install onnxruntime") from exc
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's own exceptions have no common base
        raise ConfigError(f"teacher {path}: ONNX Runtime refuses it: {exc}") from exc
    taken = session.get_inputs()[0]
    samples = taken.shape[-1] if taken.shape and isinstance(taken.shape[-1], int) else SECOND

    def hear(windows: Floats) -> tuple[Floats, Floats]:
        given = [window.reshape([1] * (len(taken.shape) - 1) + [-1]) for window in windows.astype(np.float32)]
        answers = [session.run(None, {taken.name: window}) for window in given]
        logits = np.stack([np.reshape(answer[0], -1) for answer in answers])
        return logits, np.stack([np.reshape(answer[1], -1) for answer in answers]) if len(answers[0]) > 1 else logits

    try:
        logits, _ = hear(np.zeros((1, samples), np.float32))
    except Exception as exc:  # as above
        raise ConfigError(f"teacher {path} does not take one waveform, {taken.shape}: {exc}") from exc
    return samples, logits.shape[1], hear


def _classes(path: Path) -> ClassList:
    """Read YAMNet's `index,mid,display_name`, else one name per line."""
    if path.is_file() and path.read_text(encoding="utf-8").startswith("index,mid,display_name"):
        with path.open(newline="", encoding="utf-8") as file:
            return ClassList(tuple((row["display_name"],) for row in csv.DictReader(file)))
    return ClassList.from_file(path)


def _waveform_network(data: bytes, path: Path) -> tuple[int, int, Hear]:
    try:
        schema = importlib.import_module("ai_edge_litert.schema_py_generated")
        interpreter_module = importlib.import_module("ai_edge_litert.interpreter")
        rewritten = _with_features(data, schema)
        interpreter = interpreter_module.Interpreter(model_content=rewritten, num_threads=1)
        interpreter.allocate_tensors()
    except ConfigError as exc:
        raise ConfigError(f"teacher {path}: {exc}") from exc
    except (ValueError, RuntimeError, IndexError, TypeError, AttributeError) as exc:
        raise ConfigError(f"teacher {path}: LiteRT refuses it: {exc}") from exc
    taken = interpreter.get_input_details()[0]
    logits, features = interpreter.get_output_details()[:2]
    samples = int(np.prod(taken["shape"]))
    if np.dtype(taken["dtype"]) != np.float32 or samples != max(taken["shape"]):
        raise ConfigError(f"teacher {path} takes {taken['shape']}; expected one float32 waveform")

    def hear(windows: Floats) -> tuple[Floats, Floats]:
        ours = np.zeros((len(windows), int(np.prod(logits["shape"]))), np.float32)
        theirs = np.zeros((len(windows), int(np.prod(features["shape"]))), np.float32)
        for index, window in enumerate(windows):
            interpreter.set_tensor(taken["index"], window.reshape(taken["shape"]).astype(np.float32))
            interpreter.invoke()
            ours[index] = interpreter.get_tensor(logits["index"]).reshape(-1)
            theirs[index] = interpreter.get_tensor(features["index"]).reshape(-1)
        return ours, theirs

    return samples, int(np.prod(logits["shape"])), hear


def _with_features(data: bytes, schema: Any) -> bytes:
    """Rewrite a flatbuffer so that it gives the logits of its last matrix product, and what goes into that."""
    import flatbuffers

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    graph = model.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    at = int(graph.outputs[0])
    made_by = {int(operator.outputs[0]): operator for operator in graph.operators}
    if at in made_by and codes[made_by[at].opcodeIndex] in (_LOGISTIC, _SOFTMAX):
        at = int(made_by[at].inputs[0])
    if at not in made_by or codes[made_by[at].opcodeIndex] != _FULLY_CONNECTED:
        raise ConfigError("it does not end in a matrix product (and a sigmoid); it cannot be asked for its features")
    graph.outputs = [at, int(made_by[at].inputs[0])]
    model.signatureDefs = []
    builder = flatbuffers.Builder(len(data) + 1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def train_head(features: Floats, targets: Floats, *, seed: int = 0, weight_decay: float = 1e-3) -> torch.nn.Module:
    """Train a linear head on the teacher's features, for classes it has not or has otherwise.

    Args:
        features: float32 (N, F).
        targets: probabilities, float32 (N, K).
        seed: of the initial weights.
        weight_decay: on the squared weights.

    Returns:
        A module from features (N, F) to logits (N, K); it standardises them itself.

    """
    torch.manual_seed(seed)
    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    norm = torch.nn.BatchNorm1d(x.shape[1], affine=False)
    norm.running_mean, norm.running_var = x.mean(0), x.var(0) + 1e-4
    head = torch.nn.Linear(x.shape[1], y.shape[1])
    network = torch.nn.Sequential(norm, head).eval()
    standard = norm(x)
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(150):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(standard), y) + weight_decay * (head.weight**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network
