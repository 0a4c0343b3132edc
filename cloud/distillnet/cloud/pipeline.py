"""From an application file to a student: the one module that wires the steps. Called by `distillnet distill`.

Everything is written at the end and whole: `student.tflite`, `report.html`, `report.json`. An interrupted run leaves
only its checkpoint, from which `resume` goes on.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillnet.cloud import application as applications
from distillnet.cloud import boards, budget, checkpoint, material, race, report
from distillnet.cloud.application import SMALLER, Application
from distillnet.cloud.baselines import Baselines, baselines
from distillnet.cloud.candidate import MOST_PICTURES, Candidate, ZeroShot
from distillnet.cloud.core import Classifier, weights
from distillnet.cloud.course import Course, Trained, merit
from distillnet.cloud.data import Dataset, gather
from distillnet.cloud.entrants import Entrant, Ground, enter
from distillnet.cloud.executor import Executor, Kind, open_executor
from distillnet.cloud.export import (
    GOLDEN_VECTORS,
    compare,
    dequantise,
    golden_vectors,
    input_tensor,
    run_int8,
    sample,
    to_int8,
)
from distillnet.cloud.facts import Result, student_card, student_facts
from distillnet.cloud.material import Examination
from distillnet.cloud.measure import compare_speed, int8_teacher, litert_ratio
from distillnet.cloud.metrics import Floats, Ints, softmax
from distillnet.cloud.places import cache_directory
from distillnet.cloud.probe import fit_probe
from distillnet.cloud.progress import Steps
from distillnet.cloud.rejection import Decision, fit_bias, fit_decision, fit_temperature
from distillnet.cloud.rounding import rounded
from distillnet.cloud.teacher import LITE_MEAN, LITE_SCALE, Pixels, Teacher, backbone, load, normalise
from distillnet.cloud.training import Lessons, Recipe, balanced, predict
from distillnet.cloud.views import Views, plan, render, shrink_all
from distillnet.cloud.wanted import targets
from distillnet.engine import load as load_model
from distillnet.engine.profile import Profile
from distillnet.proto.archive import pack
from distillnet.proto.files import write_whole
from distillnet.proto.strict import ConfigError

VIEWS_PER_MINUTE = 750
CUT_PICTURES_PER_MINUTE, FEWEST_CUT_PICTURES = 128, 96
TRAINING_SHARE, SHORT_TRAINING_SHARE, LONG_TRAINING_SHARE = 0.6, 0.45, 0.84
CALIBRATION_PICTURES = 64
DEFAULT_RESOLUTION = 96
BYTES_SHARE = 0.85  # of a file that is weights
SHORT_MINUTES, LONG_MINUTES = 4.0, 15.0
PRIOR_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
VALIDATION_PICTURES, VALIDATION_PICTURES_PER_MINUTE = 1200, 150
PROBE_PICTURES = 1500


def distill(
    file: Path | str,
    out: Path | str,
    *,
    minutes: float | None = None,
    seed: int | None = None,
    resume: bool = False,
    quiet: bool = True,
    workers: int = 1,
    executor: Kind = "local",
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Distil a student from an application file.

    Args:
        file: the application file.
        out: folder for `student.tflite`, `report.html` and `report.json`, made if need be.
        minutes: of search and training; None = what the file says.
        seed: None = what the file says.
        resume: go on from where an interrupted run of the same file and seed stopped.
        quiet: show no progress on stderr.
        workers: candidates of the race trained at once, one thread each.
        executor: where: processes of this machine, or a Ray cluster whose nodes share the folders of `out` and data.
        ray_address: of the cluster, `host:port`; None = the one of this machine.

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
    return _Run(
        application, path, directory, minutes, seed, resume, Steps(quiet=quiet), workers, executor, ray_address
    ).go()


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
    workers: int
    executor: Kind
    ray_address: str | None

    def go(self) -> dict[str, Any]:
        """Run all steps in order."""
        begun = time.monotonic()
        cache = cache_directory()
        with self.steps.step("data", "finding data"):
            teacher = load(self.application.teacher, self.path.parent)
            dataset = gather(self.application, self.path.parent, teacher.classes)
        views = self._views(dataset, teacher, cache)
        wished = targets(views, dataset, seed=self.seed)
        wanted, truth = wished.probabilities, wished.truth
        self._check(views, truth, dataset)
        with self.steps.step("baselines", "baselines: the teacher as it is, a probe on its features"):
            free = baselines(views, dataset, wanted, seed=self.seed)
        winner, tried = self._race(teacher, dataset, views, wanted, truth, free)
        candidate, pixels = winner.entrant.candidate, shrink_all(views.pixels, winner.entrant.resolution)
        with self.steps.step("export", "int8 conversion and gate"):
            model, decision, gate, scores = self._int8(views, pixels, wanted, truth, candidate)
        with self.steps.step("latency", "latency beside the int8 teacher"):
            whole = int8_teacher(teacher, views.pixels[views.where("train")], cache)
            speed = compare_speed(model, whole)
        arena_bytes = int(load_model(model, "auto").info["arena_bytes"])
        budget.check_sizes(self.application.budget, len(model), arena_bytes)
        seconds = self.steps.seconds | {"total": time.monotonic() - begun}
        result = Result(
            application=self.application,
            teacher=teacher,
            dataset=dataset,
            views=views,
            truth=truth,
            borne_out=wished.borne_out,
            scores=scores,
            baselines=free,
            candidate=candidate,
            decision=decision,
            gate=gate,
            speed=speed,
            board=boards.find(self.application.budget.board, self.path.parent),
            board_ms=winner.entrant.ms,
            resolution=winner.entrant.resolution,
            arena_bytes=arena_bytes,
            curve=winner.curve,
            seconds=seconds,
            seed=self.seed,
            tried=tried,
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

    def _race(
        self, teacher: Teacher, dataset: Dataset, views: Views, wanted: Floats, truth: Ints, free: Baselines
    ) -> tuple[Trained, list[dict[str, Any]]]:
        """Build the candidates, train them in a race, and return the winner and what to say of all."""
        entrants = self._entrants(teacher, dataset, views, wanted, free)
        recipe = race.shorten(self._recipe(), len(entrants))
        count = min(VALIDATION_PICTURES, int(self.minutes * VALIDATION_PICTURES_PER_MINUTE))
        train, looked = views.where("train"), sample(views.where("validation"), count)
        lessons = Lessons(
            pixels=np.empty((0, 0, 0, 3), np.uint8),
            wanted=self._taught(views, wanted, free)[train],
            logits=views.logits[train],
            features=None if views.features is None else views.features[train],
            weights=_draws(views, wanted),
            mean=LITE_MEAN,
            scale=LITE_SCALE,
        )
        if not self.resume:
            checkpoint.forget(self.out)

        def rendered(side: int) -> tuple[Lessons, Examination]:
            shown = shrink_all(views.pixels, side)
            return replace(lessons, pixels=shown[train]), Examination(
                shown[looked], truth[looked], views.unseen[looked]
            )

        sides = {entrant.resolution for entrant in entrants}
        with material.lent(self.out, map(rendered, sides)) as folders, self._executor() as executor:
            courses = [
                Course(
                    entrant=entrant,
                    material=folders[entrant.resolution],
                    recipe=recipe,
                    classify=teacher.classifier.classify if teacher.classifier else None,
                    seed=self.seed,
                    directory=self.out,
                    key=self._key(views, entrant),
                )
                for entrant in entrants
            ]
            everybody = race.run(courses, lambda some, share: self._teach(some, share, executor))
        return everybody[0], race.facts(everybody, len(looked))

    def _executor(self) -> AbstractContextManager[Executor | None]:
        """Open what runs candidates side by side; None where they run one after the other, here."""
        if self.workers == 1 and self.executor == "local":
            return nullcontext()
        return open_executor(self.executor, workers=self.workers, address=self.ray_address)

    def _teach(self, courses: Sequence[Course], share: float, executor: Executor | None) -> list[Trained]:
        """Train courses to a share. The last stretch of a local race runs here, on every core."""
        name = "distillation" if share == 1 else "race"
        if executor is not None and (share < 1 or self.executor == "ray"):
            title = f"distillation of {len(courses)} candidates to {share:.0%}, {self.workers} at once"
            with self.steps.step(name, title, len(courses)) as advance:
                return executor.map(partial(Course.teach, share=share), courses, progress=lambda done, of: advance(1))
        trained = []
        for course in courses:
            title = f"distillation of {course.entrant.name!r} to {share:.0%}"
            with self.steps.step(name, title, course.total(share)) as advance:
                trained.append(course.teach(share, advance))
        return trained

    def _entrants(
        self, teacher: Teacher, dataset: Dataset, views: Views, wanted: Floats, free: Baselines
    ) -> list[Entrant]:
        whole, native = backbone(teacher)
        count = int(np.clip(self.minutes * CUT_PICTURES_PER_MINUTE, FEWEST_CUT_PICTURES, MOST_PICTURES))
        rng = np.random.default_rng([self.seed, 23])
        looked = rng.choice(views.where("train"), count, p=_draws(views, wanted))
        search = self.application.search
        number = search.candidates if self.minutes >= SHORT_MINUTES else 1
        ground = Ground(
            network=whole,
            question=self._question(teacher, dataset, views, wanted, free, whole),
            pictures=lambda side: normalise(shrink_all(views.pixels[looked], side), LITE_MEAN, LITE_SCALE),
            wanted=wanted[looked],
            budget=budget.of_application(self.application.budget, self.path.parent, whole, native, self._measured()),
            most_weights=min(
                weights(whole) / SMALLER, BYTES_SHARE * 1024 * (self.application.budget.size_kb or math.inf)
            ),
            seed=self.seed,
        )
        with self.steps.step("relevance", "relevance and surgery", number) as advance:
            return enter(ground, number, search.resolution, advance)

    def _measured(self) -> Callable[[Profile], float] | None:
        """Return what measures a twentieth here; None where steps are counted, for that gives one student anywhere."""
        return None if self.application.search.steps else partial(litert_ratio, cache=cache_directory())

    def _question(
        self,
        teacher: Teacher,
        dataset: Dataset,
        views: Views,
        wanted: Floats,
        free: Baselines,
        whole: Classifier,
    ) -> torch.nn.Module:
        """Ask the network that is cut about the application: its own answer, or a probe on its features."""
        if teacher.classifier is not whole:
            looked = sample(views.where("train"), PROBE_PICTURES, self.seed)
            side = self.application.search.resolution or DEFAULT_RESOLUTION
            felt = predict(whole.core, shrink_all(views.pixels[looked], side), LITE_MEAN, LITE_SCALE)
            return fit_probe(felt, wanted[looked], seed=self.seed)
        if (views.labels >= 0).any() or not all(dataset.event_classes):
            assert free.probe_network is not None
            return free.probe_network
        return ZeroShot(whole.classify, dataset.event_classes)

    def _recipe(self) -> Recipe:
        """Say how to train: of a long run's minutes more go to training, for surgery and the end take no longer.

        The weights of a short run change fast until its end: their average looks back less far.
        """
        short, more = self.minutes < SHORT_MINUTES, max(0.0, self.minutes - LONG_MINUTES)
        minutes = (self.minutes - more) * (SHORT_TRAINING_SHARE if short else TRAINING_SHARE)
        seconds = 60 * (minutes + more * LONG_TRAINING_SHARE)
        return Recipe(seconds, self.application.search.steps, average_decay=0.98 if short else 0.995)

    def _taught(self, views: Views, wanted: Floats, free: Baselines) -> Floats:
        """Return what the student is to say: where there are labels, what the probe made of them says, (V, K+1).

        It is as sure as one can be who sees what the teacher sees. The teacher's own word is soft already.
        """
        labelled = views.labels >= 0
        if free.probe is None or not labelled.any():
            return wanted
        taught = wanted.copy()
        taught[labelled] = free.probe[labelled]
        return taught

    def _int8(
        self, views: Views, pixels: Pixels, wanted: Floats, truth: Ints, candidate: Candidate
    ) -> tuple[bytes, Decision, Any, Floats]:
        train, validation = views.where("train"), views.where("validation")
        scored = np.concatenate([validation, views.where("test")])
        whole = np.zeros((len(views.labels), wanted.shape[1]), np.float32)
        whole[scored] = predict(candidate.student, pixels[scored], LITE_MEAN, LITE_SCALE)
        bias = self._bias(views, whole, wanted, truth)
        whole += bias
        with torch.no_grad():
            candidate.student.classify.bias.add_(torch.from_numpy(bias))
        calibration = normalise(pixels[sample(train, CALIBRATION_PICTURES, self.seed)], LITE_MEAN, LITE_SCALE)
        model = to_int8(rounded(candidate.student, calibration), calibration)
        runner = load_model(model, "auto")
        logits = np.zeros_like(whole)
        inputs = (pixels[scored].astype(np.float32) - LITE_MEAN) / LITE_SCALE
        logits[scored] = dequantise(runner, run_int8(runner, input_tensor(runner, inputs)))
        gate = compare(logits[scored], whole[scored], truth[scored], runner.info["engine"])
        usual = validation[~views.unseen[validation]]
        temperature = fit_temperature(logits[usual], wanted[usual])
        unseen = views.unseen[validation]
        negative = unseen if unseen.any() else truth[validation] == wanted.shape[1] - 1
        rate = self.application.budget.alarm_rate
        decision = fit_decision(logits[validation], wanted[validation], negative, rate, temperature=temperature)
        return model, decision, gate, softmax(logits, decision.temperature)

    def _bias(self, views: Views, logits: Floats, wanted: Floats, truth: Ints) -> Floats:
        """Return what to add to the student's logits, both (…, K+1).

        Where the teacher's word is all there is, the student is to decide as often for each output as the teacher does.
        Else what is taken back is how often it met each output in its lessons, as far as that helps on validation data.
        """
        looked = views.where("validation")
        if len(looked) == 0:
            return np.zeros(wanted.shape[1], np.float32)
        if (views.labels < 0).all():
            return fit_bias(logits[looked], wanted[looked])
        prior = np.maximum(_draws(views, wanted) @ wanted[views.where("train")], 1e-4)  # what was never met, too
        biases = [np.asarray(-share * np.log(prior), np.float32) for share in PRIOR_SHARES]
        return max(biases, key=lambda bias: merit(softmax(logits[looked] + bias), truth[looked], views.unseen[looked]))

    def _write(self, result: Result, model: bytes, pixels: Pixels) -> dict[str, Any]:
        held_out = np.concatenate([result.views.where("validation"), result.views.where("test")])
        shown = _coarse(pixels[sample(held_out, GOLDEN_VECTORS, self.seed)])
        inputs = (shown.astype(np.float32) - LITE_MEAN) / LITE_SCALE
        student = pack(model, student_card(result), golden_vectors(model, inputs))
        facts = student_facts(result, len(student))
        try:
            write_whole(self.out / "student.tflite", student)
            report.write(self.out, facts)
        except OSError as exc:
            raise ConfigError(f"{self.out}: cannot be written: {exc.strerror}") from exc
        checkpoint.forget(self.out)
        return facts | {"student": str(self.out / "student.tflite"), "report": str(self.out / "report.html")}

    def _key(self, views: Views, entrant: Entrant) -> str:
        candidate = entrant.candidate
        parts = [self.application.model_dump_json(), str(self.seed), views.digest, entrant.name]
        parts.append(str(candidate.kept) + str(candidate.dropped))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _coarse(pixels: Pixels) -> Pixels:
    """Return pictures (N, R, R, 3) of squares of 4 × 4 pixels: they pack into a ninth of the bytes."""
    side = pixels.shape[1]
    return np.asarray(shrink_all(pixels, -(-side // 4)).repeat(4, 1).repeat(4, 2)[:, :side, :side])


def _draws(views: Views, wanted: Floats) -> NDArray[np.float64]:
    """Return how often each training view is drawn, sum 1; `wanted` (V, K+1)."""
    # Where the teacher's word is all there is, it is to be met as often as it is said.
    return balanced(wanted[views.where("train")], 0.5 if (views.labels >= 0).any() else 0.0)
