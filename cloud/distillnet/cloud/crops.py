"""New crops of what the student learns from, and what the teacher says of each: asked while the student learns.

A few thousand pictures are soon known by heart, crops that nobody has seen are not, and each has its own answer. The
teacher answers as an int8 model in the engine: on a processor that takes a tenth of the time it takes in torch.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distillnet.cloud.export import input_tensor, run_int8
from distillnet.cloud.metrics import Ints
from distillnet.cloud.teacher import Pixels
from distillnet.cloud.views import SMALLEST_CROP, Box, box, cut
from distillnet.engine import Model, load


@dataclass(frozen=True)
class Guide:
    """What answers for crops; values and files only, for it travels with a course.

    `pictures`: an .npy file, uint8 (N, S, S, 3), in the lessons' order and as large as the teacher wants them; `model`:
    int8, from them to the teacher's features (F); `classify`: the teacher's last layer; `probe`: from features to K+1
    logits; `asks` bool (N,): of which pictures the probe says what is wanted, and not the lessons.
    """

    pictures: Path
    model: bytes
    classify: nn.Linear
    probe: nn.Module | None
    asks: NDArray[np.bool_]
    mean: float
    scale: float


class Crops:
    """Cuts crops and asks about them, with as many threads as torch has."""

    def __init__(self, guide: Guide, side: int) -> None:
        """Load the teacher; `side` of the student's pictures."""
        self._guide, self._side = guide, side
        self._pictures = np.load(guide.pictures, mmap_mode="r")
        threads = torch.get_num_threads()
        self._models = [load(guide.model, "auto") for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads)
        self._output = self._models[0].info["output"]

    @property
    def features(self) -> int:
        """How many the teacher has."""
        return int(self._output["shape"][-1])

    def make(self, chosen: Ints, generator: np.random.Generator) -> tuple[Pixels, NDArray[np.int8]]:
        """Return a new crop of each chosen picture, uint8 (n, side, side, 3), and its features as int8 (n, F)."""
        smallest = [SMALLEST_CROP["labelled" if asks else "unlabelled"] for asks in self._guide.asks[chosen]]
        boxes = [box(generator, share) for share in smallest]
        parts = np.array_split(np.arange(len(chosen)), len(self._models))
        work = [
            (model, chosen[part], [boxes[i] for i in part]) for model, part in zip(self._models, parts, strict=True)
        ]
        made = list(self._pool.map(lambda some: self._look(*some), [some for some in work if len(some[1])]))
        return np.concatenate([crops for crops, _ in made]), np.concatenate([said for _, said in made])

    def _look(self, model: Model, chosen: Ints, boxes: Sequence[Box]) -> tuple[Pixels, NDArray[np.int8]]:
        pairs = [(self._pictures[index], np.array(crop, np.float32)) for index, crop in zip(chosen, boxes, strict=True)]
        large = np.stack([cut(picture, crop, self._pictures.shape[1]) for picture, crop in pairs])
        inputs = (large.astype(np.float32) - self._guide.mean) / self._guide.scale
        small = np.stack([cut(picture, crop, self._side) for picture, crop in pairs])
        return small, run_int8(model, input_tensor(model, inputs))

    @torch.no_grad()
    def answers(self, said: NDArray[np.int8], chosen: Ints, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is wanted (n, K+1), and the teacher's logits and features, of crops of the chosen pictures.

        `said`: their features as `make` gave them; `wanted`: what the lessons say of the pictures as a whole.
        """
        felt = (torch.from_numpy(said).float() - self._output["zero_point"]) * self._output["scale"]
        if self._guide.probe is not None:
            asks = torch.from_numpy(self._guide.asks[chosen])[:, None]
            wanted = torch.where(asks, self._guide.probe(felt).softmax(1), wanted)
        return wanted, self._guide.classify(felt), felt
