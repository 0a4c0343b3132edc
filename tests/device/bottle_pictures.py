"""Pictures for the `bottles` student, from Tiny-ImageNet, made nearer to what a fixed camera sees.

Called by `eval_bottles.py`. Every random choice has a fixed seed: the same archive gives the same pictures.
"""

import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

BOTTLES = ("n03983396", "n02823428")
PHOTO, SIDE = 64, 96
"""Of the archive's pictures; and of what a zone shows, as large as the student sees it: a thing in it is sharp."""
SMALLER = (0.4, 0.8)
SURFACES = 800
PATCH = 20
ARMS = 0.5
"""Share of things on a surface that somebody's arm holds, and of bare surfaces with an arm."""
ARM_HEIGHT, REACH, GRIP = (15, 39), (0.1, 0.5), (0.0, 0.7)
"""Pixels; how much of a thing's width an arm covers; and where on its height the arm begins."""

Picture = NDArray[np.uint8]
Canvas = NDArray[np.float32]


def write(archive: Path, place: Path) -> None:
    """Lay out the training split by class; `place` appears whole or not at all.

    A zone of a camera shows a thing smaller than a photograph does, often in somebody's hand, and often nothing at all.
    So every third picture (of bottles every second) is shrunk onto a plain surface, half of these with an arm that
    holds it; and the class `other` is plain surfaces, with an arm or without: the smoothest patches of pictures without
    a bottle, alone or one above the other.
    """
    rng, partial = np.random.default_rng(0), place.with_name(f"{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(archive) as zipped:
        names = sorted(name for name in zipped.namelist() if name.startswith("train/"))
        pictures = {name: _decode(zipped.read(name)) for name in names}
    patches = [_smoothest(pictures[name]) for name in names if name.split("/")[1] not in BOTTLES]
    patches = sorted(patches, key=lambda patch: float(patch.std(axis=(0, 1)).mean()))[: len(patches) // 2]
    for index, name in enumerate(names):
        wordnet, picture = name.split("/")[1], pictures[name]
        if index % (2 if wordnet in BOTTLES else 3) == 0:
            picture = _shrunk(picture, patches, rng)
        _write(partial / wordnet / f"{Path(name).stem}.png", picture)
    for index in range(SURFACES):
        empty = surface(patches, rng).astype(np.float32)
        if rng.random() < ARMS:
            left = rng.uniform(0.2, 0.8) * SIDE * rng.choice((-1, 1))
            empty = pasted(arm(patches, rng), empty, left, rng.uniform(0, 0.7) * SIDE)
        _write(partial / "other" / f"surface-{index}.png", np.clip(empty, 0, 255).astype(np.uint8))
    partial.replace(place)


def held_back(archive: Path) -> tuple[list[Picture], list[Picture], list[Picture]]:
    """Return pictures with and without a bottle, of pictures and classes never trained on, and smooth patches."""
    with zipfile.ZipFile(archive) as zipped:
        names = sorted(zipped.namelist())
        bottles = [n for n in names if n.startswith("val/") and n.split("/")[1] in BOTTLES]
        others = [n for n in names if n.startswith("unseen/")][::5]
        with_one, without = ([_decode(zipped.read(name)) for name in some] for some in (bottles, others))
    return with_one, without, [_smoothest(picture) for picture in without]


def _decode(data: bytes) -> Picture:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def _smoothest(picture: Picture) -> Picture:
    corners = [(top, left) for top in range(0, PHOTO - PATCH + 1, 11) for left in range(0, PHOTO - PATCH + 1, 11)]
    patches = [picture[top : top + PATCH, left : left + PATCH] for top, left in corners]
    return min(patches, key=lambda patch: float(patch.std(axis=(0, 1)).mean()))


def surface(patches: list[Picture], rng: np.random.Generator) -> Picture:
    def one() -> NDArray[np.float32]:
        patch = patches[int(rng.integers(len(patches)))]
        return cv2.resize(patch, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float32)

    surface = one()
    if rng.random() < 0.5:
        row = np.arange(SIDE)[:, None] - SIDE * rng.uniform(0.2, 0.9) + np.arange(SIDE) * rng.uniform(-0.2, 0.2)
        below = np.clip(row / rng.uniform(0.5, 3.0), 0, 1)[..., None]
        surface = surface * (1 - below) + one() * below
    return np.clip(surface + rng.normal(0, 2, surface.shape), 0, 255).astype(np.uint8)


def arm(patches: list[Picture], rng: np.random.Generator) -> Picture:
    """Return a smooth strip as long as a picture, to be held into it from the left or the right."""
    patch = patches[int(rng.integers(len(patches)))]
    return np.asarray(
        cv2.resize(patch, (SIDE, int(rng.integers(*ARM_HEIGHT))), interpolation=cv2.INTER_CUBIC), np.uint8
    )


def grip(left: float, width: int, reach: float, *, from_left: bool) -> float:
    """Return where an arm begins that covers `reach` pixels of a thing's width."""
    return left + reach - SIDE if from_left else left + width - reach


def pasted(thing: Picture, onto: Canvas, left: float, top: float) -> Canvas:
    """Return (SIDE, SIDE, 3) with a thing on it, its edges soft; what lies outside is cut off."""
    height, width = thing.shape[:2]
    if left <= -width or left >= SIDE:
        return onto
    mask = np.zeros((height, width), np.float32)
    mask[2:-2, 2:-2] = 1
    moved = np.array([[1, 0, left], [0, 1, top]], np.float64)
    picture = cv2.warpAffine(thing.astype(np.float32), moved, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(cv2.warpAffine(mask, moved, (SIDE, SIDE)), (0, 0), 1.5)[..., None]
    return np.asarray(soft * picture + (1 - soft) * onto, np.float32)


def _shrunk(picture: Picture, patches: list[Picture], rng: np.random.Generator) -> Picture:
    height, width = (int(SIDE * scale) for scale in rng.uniform(*SMALLER, 2))
    top, left = int(rng.integers(SIDE - height + 1)), int(rng.integers(SIDE - width + 1))
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    canvas = pasted(small, surface(patches, rng).astype(np.float32), left, top)
    if rng.random() < ARMS:
        at = grip(left, width, rng.uniform(*REACH) * width, from_left=rng.random() < 0.5)
        canvas = pasted(arm(patches, rng), canvas, at, top + rng.uniform(*GRIP) * height)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _write(path: Path, picture: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
