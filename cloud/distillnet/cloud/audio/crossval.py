"""`make eval-audio`: students on ESC-10, cross-validated by fold, beside the teacher as it is, a probe, and a control.

A job is one student of one fold; jobs that are in the results are not run again, so that an interrupted evaluation goes
on. Nothing of the data is kept but decisions.
"""

import json
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillnet.cloud.application import TeacherSection
from distillnet.cloud.audio import finish, lessons, streams, training
from distillnet.cloud.audio.clips import Clip, digest_of, read_clips
from distillnet.cloud.audio.latency import compare_latency
from distillnet.cloud.audio.students import StudentShape, predict
from distillnet.cloud.audio.teacher import SoundTeacher, load
from distillnet.cloud.metrics import softmax
from distillnet.cloud.places import write_whole
from distillnet.cloud.rejection import fit_decision, one_hot
from distillnet.proto.card import DataInfo

FOLDS = ("1", "2", "3", "4")
MEANS = {
    "baby_cry": ["Baby cry, infant cry"],
    "chainsaw": ["Chainsaw"],
    "clock_tick": ["Tick", "Tick-tock", "Clock", "Mechanisms"],
    "dog_bark": ["Dog", "Bark", "Yip", "Howl", "Bow-wow"],
    "fire_crackling": ["Fire", "Crackle"],
    "helicopter": ["Helicopter"],
    "person_sneeze": ["Sneeze"],
    "rain": ["Rain", "Raindrop", "Rain on surface"],
    "rooster": ["Chicken, rooster", "Crowing, cock-a-doodle-doo", "Fowl"],
    "sea_waves": ["Ocean", "Waves, surf"],
}
HOME = ("baby_cry", "clock_tick", "dog_bark", "person_sneeze", "rooster")
OUTDOOR = ("chainsaw", "fire_crackling", "helicopter", "rain", "sea_waves")
APPLICATIONS: dict[str, tuple[str, ...]] = {"ten": tuple(sorted(MEANS)), "home": HOME, "outdoor": OUTDOOR}
ARMS = ("distilled", "labels")
STRANGE_SHARE = {"ten": 0.15, "home": 0.35, "outdoor": 0.35}
FALSE_ALARM_RATE = 0.01


def run(
    archive: Path, models: Path, results: Path, *, windows: int, epochs: int, jobs: Sequence[str], minutes: float
) -> None:
    """Run what is not in the results yet, writing them after every job.

    Args:
        archive: `esc10-folds1-4.zip`; the first digit of a file's name is its fold.
        models: folder of `yamnet.tflite` and `yamnet_class_map.csv`.
        results: JSON, gone on with.
        windows: augmented windows per student.
        epochs: of training.
        jobs: `application/arm/fold`, in order; empty = all.
        minutes: start no further job after so long.

    """
    begun = time.monotonic()
    teacher = load(TeacherSection(source="file:yamnet.tflite", classes_file=Path("yamnet_class_map.csv")), models)
    with tempfile.TemporaryDirectory(prefix="distillnet-esc10-") as folder:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        clips = read_clips(Path(folder))
    for job in jobs or every_job():
        known = _known(results)
        if job in known["students"]:
            continue
        if time.monotonic() - begun > minutes * 60:
            break
        application, arm, fold = job.split("/")
        found = student(clips, teacher, application, arm, fold, windows=windows, epochs=epochs)
        if f"{application}/{fold}" not in known["baselines"] and arm == "distilled":
            known["baselines"][f"{application}/{fold}"] = baselines(clips, teacher, application, fold)
        latest = _known(results)
        latest["students"][job] = found
        latest["baselines"] |= known["baselines"]
        latest["data"] = {"name": archive.name, "digest": digest_of(clips), "clips": len(clips)}
        write_whole(results, (json.dumps(latest, indent=1, sort_keys=True) + "\n").encode())


def every_job() -> list[str]:
    """Return all jobs, the most telling first."""
    order = [("ten", "distilled"), ("home", "distilled"), ("outdoor", "distilled"), ("ten", "labels")]
    return [f"{application}/{arm}/{fold}" for application, arm in order for fold in FOLDS]


def student(
    clips: Sequence[Clip], teacher: SoundTeacher, application: str, arm: str, fold: str, *, windows: int, epochs: int
) -> dict[str, Any]:
    """Train one student on the other folds and hear the held-out one; int8, in the engine."""
    events = APPLICATIONS[application]
    train = [clip for clip in clips if _fold(clip) != fold and clip.label in events]
    test = [clip for clip in clips if _fold(clip) == fold]
    seed = int(fold)
    begun = time.monotonic()
    taught = lessons.make(train, list(events), teacher, windows, strange_share=STRANGE_SHARE[application], seed=seed)
    recipe = training.Recipe(epochs=epochs, distilled=arm == "distilled")
    network = training.train(taught, StudentShape(), recipe, seed=seed)
    seconds = time.monotonic() - begun
    converted = finish.convert(network, taught.features)
    logits = converted.logits(taught.features[:2000])
    truth = taught.truth[:2000].argmax(1)
    decision = fit_decision(logits, one_hot(truth, len(events) + 1), truth == len(events), FALSE_ALARM_RATE)
    packed = finish.packed(
        converted,
        application=application,
        events=[(event, MEANS[event]) for event in events],
        decision=decision,
        spec=taught.spec,
        teacher=teacher,
        data=[DataInfo(name="ESC-10", digest=digest_of(train), licence="CC-BY-3.0", n=len(train))],
        golden=taught.features,
        seed=seed,
    )
    heard = [lessons.features_of(lessons.clip_windows(clip.samples, taught.spec), taught.spec) for clip in test]
    int8 = [softmax(converted.logits(x), decision.temperature).mean(0) for x in heard]
    whole = [softmax(predict(network, torch.from_numpy(x).unsqueeze(1)).numpy()).mean(0) for x in heard]
    found: dict[str, Any] = {
        "truth": [clip.label for clip in test],
        "int8": [events[int(p[: len(events)].argmax())] for p in int8],
        "float": [events[int(p[: len(events)].argmax())] for p in whole],
        "int8_event_score": [round(float(p[: len(events)].max()), 4) for p in int8],
        "latency": compare_latency(converted.flatbuffer, taught.spec, teacher),
        "engine": f"{converted.model.info['engine']}/{converted.model.info['kernels']}",
        "bytes": len(packed),
        "train_clips": len(train),
        "windows": windows,
        "epochs": epochs,
        "seconds": round(seconds, 1),
    }
    if application != "ten" and arm == "distilled":
        found["stream"] = streams.evaluate(packed, test, events, seed=seed)
    return found


def baselines(clips: Sequence[Clip], teacher: SoundTeacher, application: str, fold: str) -> dict[str, Any]:
    """The teacher as it is, and a probe on its features, on the same windows of the held-out fold."""
    events = APPLICATIONS[application]
    spec = lessons.FRONT_END
    train = [clip for clip in clips if _fold(clip) != fold and clip.label in events]
    test = [clip for clip in clips if _fold(clip) == fold and clip.label in events]
    head = lessons.teacher_head(train, events, teacher, spec, int(fold))
    columns = [teacher.classes.resolve([f"{index}" for index in _indices(teacher, MEANS[e])], event=e) for e in events]
    as_it_is, probe = [], []
    for clip in test:
        logits, embedding = teacher.hear(lessons.for_teacher(lessons.clip_windows(clip.samples, spec), teacher))
        heard = teacher.probabilities(logits).mean(0)
        as_it_is.append(events[int(np.argmax([heard[list(own)].sum() for own in columns]))])
        with torch.inference_mode():
            said = torch.softmax(head(torch.from_numpy(embedding)), 1).mean(0).numpy()
        probe.append(events[int(said.argmax())])
    return {"truth": [clip.label for clip in test], "teacher": as_it_is, "probe": probe}


def _indices(teacher: SoundTeacher, names: Sequence[str]) -> list[int]:
    return [index for index in range(len(teacher.classes)) if teacher.classes.name(index) in names]


def _fold(clip: Clip) -> str:
    return clip.path.name[0]


def _known(results: Path) -> dict[str, Any]:
    if not results.is_file():
        return {"students": {}, "baselines": {}}
    known: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    return known
