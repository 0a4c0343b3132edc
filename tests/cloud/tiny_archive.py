"""An archive of applications as Tiny-ImageNet's, of coloured noise."""

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np

from distillnet.cloud.evaluation.tiny_imagenet import Archive

COLOURS = {"n07747607": (0, 120, 255), "n07749582": (0, 240, 240), "n01629819": (60, 60, 60), "n02125311": (90, 60, 40)}
CLASSES = {
    "names": {},
    "applications": {"fruit": {"orange": ["n07747607"], "lemon": ["n07749582"]}},
    "seen_negatives": ["n01629819"],
    "unseen_negatives": ["n02125311"],
}


def make_archive(path: Path, pictures: int = 12) -> Archive:
    """Write `train` and `val` of two fruit and a negative, `unseen` of another, so many pictures each."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("classes.json", json.dumps(CLASSES))
        for wordnet, colour in COLOURS.items():
            for split in ("unseen",) if wordnet == "n02125311" else ("train", "val"):
                for number in range(pictures):
                    picture = np.clip(np.array(colour) + rng.integers(-30, 31, (64, 64, 3)), 0, 255).astype(np.uint8)
                    file.writestr(f"{split}/{wordnet}/{number}.JPEG", cv2.imencode(".jpg", picture)[1].tobytes())
    return Archive(path)
