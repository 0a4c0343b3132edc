"""The teacher that hears: a black-box `.tflite` from a waveform to many classes, and a head on its features.

The features are the tensor before the last matrix product; the flatbuffer is rewritten to give it as a second output,
so that a black box teaches more than its classes, at its usual speed.
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

from distillnet.cloud.application import TeacherSection
from distillnet.cloud.classes import ClassList
from distillnet.proto.strict import ConfigError

Floats = NDArray[np.float32]
Hear = Callable[[Floats], tuple[Floats, Floats]]

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
    """float32 (N, samples) to logits (N, classes) and features (N, F)."""

    def probabilities(self, logits: Floats) -> Floats:
        """Sigmoid: several sounds may be there at once; float32 (N, classes)."""
        return (1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))).astype(np.float32)


def load(section: TeacherSection, base: Path) -> SoundTeacher:
    """Load `file:PATH.tflite`; `classes_file` names its classes (one a line, or YAMNet's class map).

    Raises:
        ConfigError: missing, or no network from a waveform to classes.

    """
    kind, _, rest = section.source.partition(":")
    if kind != "file" or not rest:
        raise ConfigError(f"[teacher] source {section.source!r}: a teacher of sound is file:PATH.tflite, e.g. YAMNet")
    path = base / rest
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"[teacher] source {section.source!r}: {path} cannot be read: {exc.strerror}") from exc
    samples, outputs, hear = _waveform_network(data, path)
    classes = _classes(base / section.classes_file) if section.classes_file else ClassList.numbered(outputs)
    if len(classes) != outputs:
        raise ConfigError(f"teacher {path} gives {outputs} classes; classes_file names {len(classes)}")
    return SoundTeacher(section.source, classes, samples, f"sha256:{hashlib.sha256(data).hexdigest()}", hear)


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
