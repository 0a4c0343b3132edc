"""From an application file to a student: the one module that wires the steps. Called by `distillnet distill`.

Everything is written at the end and whole: `student.tflite`, `report.html`, `report.json`. An interrupted run leaves
only its checkpoint, from which `resume` goes on.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillnet.cloud import application as applications
from distillnet.cloud import report
from distillnet.cloud.application import Application
from distillnet.cloud.baselines import Baselines, baselines
from distillnet.cloud.candidate import Candidate, ZeroShot, essential_core
from distillnet.cloud.checkpoint import Checkpoint
from distillnet.cloud.data import Dataset, gather
from distillnet.cloud.export import compare, dequantise, golden_vectors, input_tensor, run_int8, sample, to_int8
from distillnet.cloud.facts import Result, student_card, student_facts
from distillnet.cloud.measure import compare_speed, int8_teacher
from distillnet.cloud.metrics import Floats, Ints, macro_recall, softmax
from distillnet.cloud.places import cache_directory, write_whole
from distillnet.cloud.progress import Steps
from distillnet.cloud.rejection import DEFAULT_FALSE_ALARM_RATE, Decision, fit_bias, fit_decision, fit_temperature
from distillnet.cloud.teacher import Pixels, Teacher, load, normalise
from distillnet.cloud.training import Lessons, Recipe, balanced, distil, predict, start_heads
from distillnet.cloud.views import Views, plan, render, shrink_all
from distillnet.cloud.wanted import targets
from distillnet.engine import load as load_model
from distillnet.proto.archive import pack
from distillnet.proto.strict import ConfigError

VIEWS_PER_MINUTE = 1500
RELEVANCE_PICTURES_PER_MINUTE = 128
TRAINING_SHARE = 0.6
CALIBRATION_PICTURES = 64
DEFAULT_RESOLUTION = 96
TEACHER_TO_STUDENT_MACS = 16.0
SHORT_MINUTES = 4.0
PROBE_SHARE = 0.5


def distill(
    file: Path | str,
    out: Path | str,
    *,
    minutes: float | None = None,
    seed: int | None = None,
    resume: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Distil a student from an application file.

    Args:
        file: the application file.
        out: folder for `student.tflite`, `report.html` and `report.json`, made if need be.
        minutes: of search and training; None = what the file says.
        seed: None = what the file says.
        resume: go on from where an interrupted run of the same file and seed stopped.
        quiet: show no progress on stderr.

    Returns:
        The report's facts, and where `student` and `report` lie.

    Raises:
        ConfigError: the file or its data is wrong, or the budget cannot be met.

    """
    path, directory = Path(file), Path(out)
    application = applications.load(path)
    minutes = application.search.minutes if minutes is None else minutes
    seed = application.search.seed if seed is None else seed
    if application.application.modality == "audio":
        from distillnet.cloud.audio import pipeline as audio

        facts: dict[str, Any] = audio.distill(path, directory, minutes=minutes, seed=seed, resume=resume, quiet=quiet)
        return facts
    return _Run(application, path, directory, minutes, seed, resume, Steps(quiet=quiet)).go()


@dataclass
class _Run:
    """One distillation of an image application."""

    application: Application
    path: Path
    out: Path
    minutes: float
    seed: int
    resume: bool
    steps: Steps

    def go(self) -> dict[str, Any]:
        """Run all steps in order."""
        begun = time.monotonic()
        cache = cache_directory()
        with self.steps.step("data", "finding data"):
            teacher = load(self.application.teacher, self.path.parent)
            dataset = gather(self.application, self.path.parent, teacher.classes)
        views = self._views(dataset, teacher, cache)
        wanted = targets(views, dataset)
        truth = np.asarray(wanted.argmax(1), np.int64)
        self._check(views, truth, dataset)
        with self.steps.step("baselines", "baselines: the teacher as it is, a probe on its features"):
            free = baselines(views, dataset, wanted, seed=self.seed)
        resolution = self.application.search.resolution or DEFAULT_RESOLUTION
        pixels = shrink_all(views.pixels, resolution)
        candidate, curve = self._student(teacher, dataset, views, pixels, wanted, truth, free)
        with self.steps.step("export", "int8 conversion and gate"):
            model, decision, gate, scores = self._int8(teacher, views, pixels, wanted, truth, candidate)
        with self.steps.step("latency", "latency beside the int8 teacher"):
            whole = int8_teacher(teacher, views.pixels[views.where("train")], cache)
            speed = compare_speed(model, whole)
        self._check_budget(speed.student_ms, len(model))
        seconds = self.steps.seconds | {"total": time.monotonic() - begun}
        result = Result(
            application=self.application,
            teacher=teacher,
            dataset=dataset,
            views=views,
            truth=truth,
            scores=scores,
            baselines=free,
            candidate=candidate,
            decision=decision,
            gate=gate,
            speed=speed,
            resolution=resolution,
            arena_bytes=int(load_model(model, "auto").info["arena_bytes"]),
            curve=curve,
            seconds=seconds,
            seed=self.seed,
            tried=[],
        )
        return self._write(result, model, pixels)

    def _views(self, dataset: Dataset, teacher: Teacher, cache: Path) -> Views:
        chosen = plan(dataset, int(self.minutes * VIEWS_PER_MINUTE), 0)
        with self.steps.step("teacher", f"teacher looks at {len(chosen.items)} views", len(chosen.items)) as advance:
            return render(dataset, chosen, teacher, cache, advance)

    def _check(self, views: Views, truth: Ints, dataset: Dataset) -> None:
        train = truth[views.where("train")]
        for index, name in enumerate(dataset.events):
            if not (train == index).any():
                raise ConfigError(
                    f"event {name!r}: no training picture shows it"
                    + (", says the teacher; give it examples or labelled data" if (views.labels < 0).any() else "")
                )

    def _student(
        self,
        teacher: Teacher,
        dataset: Dataset,
        views: Views,
        pixels: Pixels,
        wanted: Floats,
        truth: Ints,
        free: Baselines,
    ) -> tuple[Candidate, list[dict[str, float]]]:
        train, validation = views.where("train"), views.where("validation")
        candidate = self._cut(teacher, dataset, views, pixels, wanted, free)
        checkpoint = Checkpoint(self.out, self._key(views, candidate))
        kept = checkpoint.load() if self.resume else None
        if kept:
            self.steps.say("going on from the checkpoint")
        recipe = self._recipe()
        lessons = Lessons(
            pixels=pixels[train],
            wanted=self._mixed(views, wanted, free)[train],
            logits=views.logits[train],
            features=None if views.features is None else views.features[train],
            # Where the teacher's word is all there is, it is to be met as often as it is said.
            weights=balanced(wanted[train], 0.5 if (views.labels >= 0).any() else 0.0),
            mean=teacher.mean,
            scale=teacher.scale,
        )
        if not kept:
            start_heads(candidate.student, candidate.throw_away, lessons, seed=self.seed)
        looked = sample(validation, 400)

        def merit(network: torch.nn.Module) -> float:
            logits = predict(network, pixels[looked], teacher.mean, teacher.scale)
            return macro_recall(softmax(logits), truth[looked]).value

        total = float(recipe.steps or recipe.seconds)
        with self.steps.step("distillation", "distillation", total) as advance:
            curve = distil(
                candidate.student,
                candidate.throw_away,
                lessons,
                recipe,
                seed=self.seed,
                advance=advance,
                check=merit if len(looked) else None,
                resume_from=kept,
                keep=checkpoint.keep,
            )
        self._checkpoint = checkpoint
        return candidate, curve

    def _recipe(self) -> Recipe:
        """Short runs take small steps in small batches: what the cut left is good, and there is no time to recover."""
        seconds, steps = self.minutes * 60 * TRAINING_SHARE, self.application.search.steps
        if self.minutes < SHORT_MINUTES:
            return Recipe(seconds, steps, batch=32, learning_rate=1e-3, average_decay=0.98)
        return Recipe(seconds, steps)

    def _cut(
        self, teacher: Teacher, dataset: Dataset, views: Views, pixels: Pixels, wanted: Floats, free: Baselines
    ) -> Candidate:
        whole = teacher.classifier
        if whole is None:
            raise ConfigError(f"teacher {teacher.source!r} cannot be cut; its logits can teach other students only")
        asked: torch.nn.Module
        if (views.labels >= 0).any() or not all(dataset.event_classes):
            assert free.probe_network is not None
            asked = free.probe_network
        else:
            asked = ZeroShot(whole.classify, dataset.event_classes)
        count = int(np.clip(self.minutes * RELEVANCE_PICTURES_PER_MINUTE, 96, 768))
        looked = sample(views.where("train"), count, self.seed)
        with self.steps.step("relevance", "relevance and surgery", len(looked)) as advance:
            return essential_core(
                whole,
                asked,
                normalise(pixels[looked], teacher.mean, teacher.scale),
                wanted[looked],
                budget=self._budget_macs(teacher),
                seed=self.seed,
                advance=advance,
            )

    def _budget_macs(self, teacher: Teacher) -> float:
        from distillnet.cloud.core import CoreNet, macs

        core = teacher.classifier.core if teacher.classifier else None
        assert isinstance(core, CoreNet)
        return macs(core.shape, teacher.native_resolution) / TEACHER_TO_STUDENT_MACS

    def _mixed(self, views: Views, wanted: Floats, free: Baselines) -> Floats:
        """Soften labels with the probe's opinion; the teacher's own word is soft already."""
        labelled = views.labels >= 0
        if free.probe is None or not labelled.any():
            return wanted
        mixed = wanted.copy()
        mixed[labelled] = (1 - PROBE_SHARE) * wanted[labelled] + PROBE_SHARE * free.probe[labelled]
        return mixed

    def _int8(
        self, teacher: Teacher, views: Views, pixels: Pixels, wanted: Floats, truth: Ints, candidate: Candidate
    ) -> tuple[bytes, Decision, Any, Floats]:
        train, validation = views.where("train"), views.where("validation")
        if (views.labels < 0).all():
            self._follow_teacher(teacher, pixels[validation], wanted[validation], candidate)
        calibration = normalise(pixels[sample(train, CALIBRATION_PICTURES, self.seed)], teacher.mean, teacher.scale)
        model = to_int8(candidate.student, calibration)
        runner = load_model(model, "auto")
        scored = np.concatenate([validation, views.where("test")])
        logits = np.zeros((len(views.labels), wanted.shape[1]), np.float32)
        inputs = (pixels[scored].astype(np.float32) - teacher.mean) / teacher.scale
        logits[scored] = dequantise(runner, run_int8(runner, input_tensor(runner, inputs)))
        whole = predict(candidate.student, pixels[scored], teacher.mean, teacher.scale)
        gate = compare(logits[scored], whole, truth[scored], runner.info["engine"])
        usual = validation[~views.unseen[validation]]
        temperature = fit_temperature(logits[usual], wanted[usual])
        unseen = views.unseen[validation]
        negative = unseen if unseen.any() else truth[validation] == wanted.shape[1] - 1
        rate = self.application.budget.false_alarm_rate or DEFAULT_FALSE_ALARM_RATE
        decision = fit_decision(logits[validation], wanted[validation], negative, rate, temperature=temperature)
        return model, decision, gate, softmax(logits, decision.temperature)

    def _follow_teacher(self, teacher: Teacher, pixels: Pixels, wanted: Floats, candidate: Candidate) -> None:
        """Fold a bias into the student that makes it decide as often for each output as the teacher does."""
        bias = fit_bias(predict(candidate.student, pixels, teacher.mean, teacher.scale), wanted)
        with torch.no_grad():
            candidate.student.classify.bias.add_(torch.from_numpy(bias))

    def _check_budget(self, student_ms: float, size: int) -> None:
        budget = self.application.budget
        if budget.size_kb is not None and size > budget.size_kb * 1024:
            raise ConfigError(f"the student is {size / 1024:.0f} KiB; [budget] size_kb = {budget.size_kb:g} is less")
        if budget.latency_ms is not None and student_ms > budget.latency_ms:
            self.steps.say(f"the student takes {student_ms:.3f} ms here; [budget] asks for {budget.latency_ms:g}")

    def _write(self, result: Result, model: bytes, pixels: Pixels) -> dict[str, Any]:
        held_out = np.concatenate([result.views.where("validation"), result.views.where("test")])
        inputs = (
            pixels[sample(held_out, 8, self.seed)].astype(np.float32) - result.teacher.mean
        ) / result.teacher.scale
        student = pack(model, student_card(result), golden_vectors(model, inputs))
        facts = student_facts(result, len(student))
        try:
            write_whole(self.out / "student.tflite", student)
            report.write(self.out, facts)
        except OSError as exc:
            raise ConfigError(f"{self.out}: cannot be written: {exc.strerror}") from exc
        self._checkpoint.remove()
        return facts | {"student": str(self.out / "student.tflite"), "report": str(self.out / "report.html")}

    def _key(self, views: Views, candidate: Candidate) -> str:
        parts = [self.application.model_dump_json(), str(self.seed), views.digest]
        parts.append(str(candidate.kept) + str(candidate.dropped))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
