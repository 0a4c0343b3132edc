"""Views of the data: crops rendered once a run, and what the teacher says of each, kept in the cache by content.

A view is what teacher and student both see: the whole picture first, then random crops. `Views.pixels` are at the
teacher's resolution; the student gets the same view, made smaller.
"""

import hashlib
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from distillnet.cloud.data import Dataset, Item, Split
from distillnet.cloud.media import Picture, read_frames, read_picture
from distillnet.cloud.progress import Advance
from distillnet.cloud.teacher import Floats, Teacher
from distillnet.proto.files import write_whole

FORMAT = 2
MOST_CROPS, MOST_SHARE = 12, 1 / 60  # of one picture: crops, or, where that is more, that share of all views
MOST_HELD_OUT_CROPS = 4
FEWEST_LABELLED = 4000
SMALLEST_CROP = {"labelled": 0.6, "unlabelled": 0.8}
_BATCH = 64


@dataclass(frozen=True)
class Plan:
    """Which crop of which item each view is. `boxes`: float32 (V, 4) left, top, right, bottom, 0–1."""

    items: NDArray[np.int64]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class Views:
    """Rendered views, V of them, with everything known about each.

    `pixels` uint8 (V, S, S, 3) RGB; `logits` float32 (V, classes); `features` float32 (V, F) or None; `labels` int64
    (V,), -1 where the teacher labels; `split` (V,) of str; `unseen` bool (V,); `groups` int64 (V,).
    """

    pixels: NDArray[np.uint8]
    logits: Floats
    features: Floats | None
    labels: NDArray[np.int64]
    split: NDArray[np.str_]
    unseen: NDArray[np.bool_]
    groups: NDArray[np.int64]
    digest: str

    def where(self, split: Split) -> NDArray[np.int64]:
        """Return the indices of a split's views."""
        return np.flatnonzero(self.split == split)


def plan(dataset: Dataset, wanted: int, seed: int) -> Plan:
    """Choose about `wanted` training views: every source gets its share, every item at least its whole picture.

    Where there are more labelled pictures to train on than views, some are left out, most of them of what is frequent.
    Labelled items outside the training split get the whole picture only; those the teacher labels get crops as well,
    for crops are what it is asked about.
    """
    rng = np.random.default_rng([seed, 7])
    shares = _crops(dataset, wanted)
    left_out = _left_out(dataset, wanted, rng)
    items, boxes = [], []
    for index, item in enumerate(dataset.items):
        if index in left_out:
            continue
        crops = shares[item.source]
        if item.split != "train":
            crops = 0 if item.label is not None else min(crops, MOST_HELD_OUT_CROPS)
        items += [index] * (1 + crops)
        boxes.append((0.0, 0.0, 1.0, 1.0))
        smallest = SMALLEST_CROP["unlabelled" if item.label is None else "labelled"]
        boxes += [_box(rng, smallest) for _ in range(crops)]
    return Plan(np.array(items, np.int64), np.array(boxes, np.float32).reshape(-1, 4))


def _crops(dataset: Dataset, wanted: int) -> dict[str, int]:
    """Crops per item, by source: equal shares for unlabelled sources, so that no long video drowns the rest.

    Few pictures are learnt by heart in a long run, so there they are shown in more crops.
    """
    most = max(MOST_CROPS, int(MOST_SHARE * wanted))
    sizes: dict[str, int] = defaultdict(int)
    for item in dataset.items:
        if item.split == "train":
            sizes[item.source] += 1
    labelled = {item.source for item in dataset.items if item.label is not None}
    total = sum(sizes.values()) or 1
    crops = {}
    for source, size in sizes.items():
        share = wanted * (size / total if source in labelled else 1 / len(sizes)) / size
        views = math.floor(share) if source in labelled else round(share)  # those are many: never more than wanted
        crops[source] = int(np.clip(views - 1, 0, most))
    return defaultdict(int, crops)


def _left_out(dataset: Dataset, wanted: int, rng: np.random.Generator) -> set[int]:
    """Choose labelled training items that there is no time for: outputs keep by the square root of their count."""
    of_label: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(dataset.items):
        if item.split == "train" and item.label is not None:
            of_label[item.label].append(index)
    room, roots = float(max(wanted, FEWEST_LABELLED)), sum(math.sqrt(len(own)) for own in of_label.values())
    left_out: set[int] = set()
    for own in sorted(of_label.values(), key=len):  # what the small ones do not need is for the large
        keeps = min(len(own), math.ceil(room * math.sqrt(len(own)) / roots))
        left_out.update(rng.permutation(own)[keeps:].tolist())
        room, roots = room - keeps, roots - math.sqrt(len(own))
    return left_out


def _box(rng: np.random.Generator, smallest: float) -> tuple[float, float, float, float]:
    side = rng.uniform(smallest, 1.0)
    stretch = float(np.exp(rng.uniform(-0.15, 0.15)))
    width, height = min(1.0, side * stretch), min(1.0, side / stretch)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return float(left), float(top), float(left + width), float(top + height)


def render(dataset: Dataset, chosen: Plan, teacher: Teacher, cache: Path, advance: Advance) -> Views:
    """Render the views and ask the teacher, or take its answers from the cache when nothing they depend on changed.

    Raises:
        ConfigError: a picture or video cannot be read.

    """
    side = teacher.resolution
    digest = _digest(dataset, chosen, teacher)
    kept = cache / "teacher" / f"{digest[:32]}.npz"
    arrays = _load(kept)
    pixels = np.empty((len(chosen.items), side, side, 3), np.uint8)
    order: list[int] = []
    said, felt = [], []

    def ask(begin: int) -> None:
        logits, features = teacher.outputs(pixels[order[begin:]])
        said.append(logits.astype(np.float16))
        if features is not None:
            felt.append(features.astype(np.float16))
        advance(len(order) - begin)

    asked = 0
    for view, picture in _pictures(dataset.items, chosen):
        pixels[view] = _cut(picture, chosen.boxes[view], side)
        order.append(view)
        if arrays is None and len(order) - asked == _BATCH:
            ask(asked)
            asked = len(order)
    if arrays is None:
        if asked < len(order):
            ask(asked)
        back = np.argsort(np.array(order))
        arrays = {"logits": np.concatenate(said)[back]}
        if felt:
            arrays["features"] = np.concatenate(felt)[back]
        _keep(kept, arrays)
    else:
        advance(len(order))
    items = [dataset.items[index] for index in chosen.items]
    names = {name: number for number, name in enumerate(dict.fromkeys(item.group for item in items))}
    features = arrays.get("features")
    return Views(
        pixels=pixels,
        logits=arrays["logits"].astype(np.float32),
        features=None if features is None else features.astype(np.float32),
        labels=np.array([-1 if item.label is None else item.label for item in items], np.int64),
        split=np.array([item.split for item in items]),
        unseen=np.array([item.unseen for item in items]),
        groups=np.array([names[item.group] for item in items], np.int64),
        digest=f"sha256:{digest}",
    )


def _pictures(items: tuple[Item, ...], chosen: Plan) -> Iterator[tuple[int, Picture]]:
    """Yield (view, picture), every file opened once."""
    views_of: dict[int, list[int]] = defaultdict(list)
    for view, index in enumerate(chosen.items):
        views_of[int(index)].append(view)
    frames: dict[Path, dict[int, int]] = defaultdict(dict)
    for index in views_of:
        frame = items[index].frame
        if frame is None:
            picture = read_picture(items[index].path)
            yield from ((view, picture) for view in views_of[index])
        else:
            frames[items[index].path][frame] = index
    for path, wanted in frames.items():
        for frame, picture in read_frames(path, list(wanted)):
            yield from ((view, picture) for view in views_of[wanted[frame]])


def _cut(picture: Picture, box: NDArray[np.float32], side: int) -> Picture:
    height, width = picture.shape[:2]
    left, top = int(box[0] * width), int(box[1] * height)
    right, bottom = max(left + 1, round(float(box[2]) * width)), max(top + 1, round(float(box[3]) * height))
    return shrink(picture[top:bottom, left:right], side)


def shrink(picture: Picture, side: int) -> Picture:
    """Resize to side × side as a device does: area when shrinking, bilinear otherwise."""
    shrinking = picture.shape[0] >= side and picture.shape[1] >= side
    resized = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def shrink_all(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize views (V, S, S, 3) to (V, side, side, 3)."""
    if pixels.shape[1] == side:
        return pixels
    smaller = np.empty((len(pixels), side, side, 3), np.uint8)
    for view, picture in enumerate(pixels):
        smaller[view] = shrink(picture, side)
    return smaller


def _digest(dataset: Dataset, chosen: Plan, teacher: Teacher) -> str:
    """Digest what a rendering depends on: bytes of the files, crops, teacher. Labels and splits may change freely."""
    state = hashlib.sha256(f"{FORMAT}:{teacher.digest}:{teacher.resolution}".encode())
    of_file: dict[Path, bytes] = {}
    for item in dataset.items:
        if item.path not in of_file:
            try:
                of_file[item.path] = hashlib.sha256(item.path.read_bytes()).digest()
            except OSError:
                of_file[item.path] = b""  # reading it says what is wrong
        state.update(of_file[item.path] + str(item.frame).encode())
    state.update(chosen.items.tobytes() + chosen.boxes.tobytes())
    return state.hexdigest()


def _load(path: Path) -> dict[str, NDArray[np.generic]] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            os.utime(path)
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError):
        path.unlink(missing_ok=True)
        return None


def _keep(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_whole(path, buffer.getvalue())
