"""Distillation: a cut network learns to say what the teacher says, with the outputs the application needs.

Two heads sit on the student's features: the K+1 outputs that stay, and a throw-away head that must reproduce the
teacher's features and, through the teacher's own frozen last layer, its many-class logits. Teacher and student are
shown the same view. Losses are means over the batch, never per class.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from distillnet.cloud import accelerator
from distillnet.cloud.core import Classifier, CoreNet
from distillnet.cloud.metrics import Floats, Ints
from distillnet.cloud.progress import Advance
from distillnet.cloud.surgery import reestimate_norms
from distillnet.cloud.teacher import normalise
from distillnet.proto.strict import ConfigError

Pixels = NDArray[np.uint8]
SETTLING_PICTURES = 512
STILL_SHARE = 0.5
VERSIONS, USES, MOST_KEPT_BYTES = 4, 8, 1 << 30
FRESH_RATE, HEAD_RATE = 4.0, 2.0
PACE_STEPS, TRIAL_STEPS = 256, 5
Keeper = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Recipe:
    """How to train. The learning rate warms up and falls along a cosine over `seconds`, or over `steps` if given."""

    seconds: float
    steps: int | None = None
    batch: int = 64
    learning_rate: float = 1.4e-3
    weight_decay: float = 1e-4
    wanted_weight: float = 2.0
    logits_weight: float = 1.0
    features_weight: float = 0.3
    logits_temperature: float = 1.0
    average_decay: float = 0.995
    keep_every_s: float = 30.0


@dataclass(frozen=True)
class Lessons:
    """Training material. `pixels` uint8 (N, H, W, 3) at the student's size; `wanted` (N, K+1); `logits` (N, classes);
    `features` (N, F) or None; `weights` (N,), how often each is drawn, sum 1.
    """

    pixels: Pixels
    wanted: Floats
    logits: Floats
    features: Floats | None
    weights: NDArray[np.float64]
    mean: float
    scale: float


class Pace:
    """Chooses with how many threads to train: all, or one, whichever makes the quicker steps now.

    What the system calls processors may be two halves of one, or be taken by others; then threads wait for each other.
    """

    def __init__(self, most: int) -> None:
        """Begin with `most` threads."""
        self.threads = self._most = most
        self._steps = 0
        self._times: dict[int, list[float]] = {most: [], 1: []}

    def note(self, seconds: float) -> int:
        """Take what the last step took; returns the threads for the next."""
        self._times[self.threads].append(seconds)
        self._steps = (self._steps + 1) % PACE_STEPS
        if self._steps == 0:
            self._times = {self._most: [], 1: []}
            self.threads = self._most
        elif self._steps == TRIAL_STEPS:
            self.threads = 1
        elif self._steps == 2 * TRIAL_STEPS:
            self.threads = min(self._times, key=lambda threads: median(self._times[threads]))
        return self.threads


class ThrowAwayHead(nn.Module):
    """Student features (N, f) to the teacher's features (N, F) and logits (N, classes); not part of the student."""

    def __init__(self, into: int, teacher_classifier: nn.Linear | None, classes: int) -> None:
        """Freeze a copy of the teacher's last layer; without one (a black box) map to logits directly."""
        super().__init__()
        self.frozen = copy.deepcopy(teacher_classifier).requires_grad_(False) if teacher_classifier else None
        self.adapt = nn.Linear(into, teacher_classifier.in_features if teacher_classifier else classes)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the teacher's logits and, where it is no black box, its features."""
        adapted = self.adapt(features)
        return (self.frozen(adapted), adapted) if self.frozen is not None else (adapted,)


def balanced(wanted: Floats, strength: float = 0.5) -> NDArray[np.float64]:
    """Return drawing weights: rare outputs more often, by count to the power −`strength`; `wanted` (N, K+1)."""
    decided = wanted.argmax(1)
    counts = np.bincount(decided, minlength=wanted.shape[1]).clip(1)
    weights = counts[decided].astype(np.float64) ** -strength
    return np.asarray(weights / weights.sum(), np.float64)


def distil(
    student: Classifier,
    throw_away: ThrowAwayHead,
    lessons: Lessons,
    recipe: Recipe,
    *,
    seed: int,
    advance: Advance = lambda amount=1.0, note="": None,
    until: float = 1.0,
    check: Callable[[nn.Module], float] | None = None,
    resume_from: dict[str, Any] | None = None,
    keep: Keeper | None = None,
) -> list[dict[str, float]]:
    """Train `student` in place, where `accelerator` says; it ends here, as the running average of its weights.

    Args:
        student: K+1 logits.
        throw_away: the second head.
        lessons: what to learn from.
        recipe: how, and how long.
        seed: of sampling and augmentation.
        advance: called with seconds (or steps) spent and a note.
        until: the share of the recipe to stop at; what `keep` was given then goes on from there.
        check: figure of merit of a network, computed a few times on the way.
        resume_from: what `keep` was given before an interruption.
        keep: takes the state every so often.

    Returns:
        The learning curve: `step`, `seconds`, `loss` and, where checked, `merit`.

    Raises:
        ConfigError: the loss is no longer a number.

    """
    torch.manual_seed(seed)
    generator = np.random.default_rng([seed, 11])
    both = nn.ModuleList([student, throw_away])
    where = accelerator.device()
    both.to(device=where, memory_format=accelerator.memory_format())  # type: ignore[call-overload]
    held = _hold_still(student)
    material = _Material(lessons, where, held)
    average = copy.deepcopy(student).requires_grad_(False)
    optimiser = torch.optim.AdamW(_parameter_groups(both, recipe), lr=recipe.learning_rate, fused=True)
    curve: list[dict[str, float]] = []
    step, spent = 0, 0.0
    if resume_from:
        both.load_state_dict(resume_from["networks"])
        average.load_state_dict(resume_from["average"])
        optimiser.load_state_dict(resume_from["optimiser"])
        generator.bit_generator.state = resume_from["generator"]
        curve, step, spent = resume_from["curve"], resume_from["step"], resume_from["spent"]
        advance(step if recipe.steps else spent)
    forward: Callable[[Tensor], Any] | None = None
    threads = torch.get_num_threads()
    # Sums differ by the number of threads, and a number of steps is to give the same student.
    pace = Pace(threads) if recipe.steps is None and where.type == "cpu" else None
    last, last_kept, next_check = time.monotonic(), time.monotonic(), 0.1 if check else math.inf
    smooth = curve[-1]["loss"] if curve else math.nan
    both.train()
    while True:
        done = step / recipe.steps if recipe.steps else spent / recipe.seconds
        if done >= until:
            break
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * group["factor"] * _schedule(done)
        batch = material.draw(recipe.batch, generator)
        if forward is None:
            forward = accelerator.replayed(_Forward(student, throw_away, held), batch.x)
        outputs, *guessed = forward(batch.x)
        loss = _loss(outputs, guessed, batch, material.deviation, recipe)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(both.parameters(), 5.0)
        optimiser.step()
        step += 1
        _follow(average, student, min(recipe.average_decay, (1 + step) / (10 + step)))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigError(f"distillation diverged: the loss is {value} at step {step}: other data may help")
        smooth = value if math.isnan(smooth) else 0.95 * smooth + 0.05 * value
        now = time.monotonic()
        spent, elapsed, last = spent + now - last, now - last, now
        if pace is not None:
            torch.set_num_threads(pace.note(elapsed))
        advance(1 if recipe.steps else elapsed, f"loss {smooth:.3f}")
        if done >= next_check or step % 50 == 1:
            point = {"step": float(step), "seconds": spent, "loss": smooth}
            if check is not None and done >= next_check:
                _settle(average, lessons)
                point["merit"] = check(average)
                next_check += 0.3
                last = time.monotonic()  # looking is not training
            curve.append(point)
        if keep is not None and now - last_kept > recipe.keep_every_s:
            keep(_state(both, average, optimiser, generator, curve, step, spent))
            last_kept = last = time.monotonic()
    torch.set_num_threads(threads)
    if keep is not None:
        keep(_state(both, average, optimiser, generator, curve, step, spent))
    student.load_state_dict(average.state_dict())
    _settle(student, lessons)
    both.to("cpu")
    curve.append({"step": float(step), "seconds": spent, "loss": smooth})
    return curve


@dataclass(frozen=True)
class _Held:
    """A network whose stem and first `count` blocks stand still."""

    core: CoreNet
    count: int


class _Forward(nn.Module):
    """What learns, in one: a batch's x to the student's K+1 logits and what the throw-away head gives."""

    def __init__(self, student: Classifier, throw_away: ThrowAwayHead, held: _Held | None) -> None:
        super().__init__()
        self._student, self._throw_away, self._held = student, throw_away, held

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        felt: Tensor = self._held.core.late(x, self._held.count) if self._held else self._student.core(x)
        return (self._student.classify(felt), *self._throw_away(felt))


def _hold_still(student: Classifier) -> _Held | None:
    """Keep a pretrained network's first blocks as they are: edges are edges."""
    core = student.core
    if not isinstance(core, CoreNet) or not core.fixed_norms:
        return None
    held = _Held(core, int(STILL_SHARE * len(core.blocks)))
    for part in (core.stem, core.stem_bn, *core.blocks[: held.count]):
        part.requires_grad_(False)
    return held


def _settle(network: Classifier, lessons: Lessons) -> None:
    """Re-estimate BatchNorm on plain pictures: running statistics lag behind weights, and behind averages of them."""
    if getattr(network.core, "fixed_norms", False):
        return
    chosen = np.random.default_rng(0).permutation(len(lessons.pixels))[:SETTLING_PICTURES]
    where = next(network.parameters()).device
    drawn = np.array_split(chosen, max(1, len(chosen) // 64))
    batches = [torch.from_numpy(lessons.pixels[batch]).to(where) for batch in drawn]
    reestimate_norms(network, [normalise(batch, lessons.mean, lessons.scale) for batch in batches])


def start_heads(
    student: Classifier, throw_away: ThrowAwayHead, lessons: Lessons, *, seed: int, most: int = 1500
) -> None:
    """Give both heads the best linear start on the features that the cut left: time is too short to learn that slowly.

    The K+1 head by logistic regression, the throw-away head by ridge regression to the teacher's features or logits.
    """
    chosen = np.random.default_rng([seed, 3]).permutation(len(lessons.pixels))[:most]
    felt = torch.from_numpy(predict(student.core, lessons.pixels[chosen], lessons.mean, lessons.scale))
    mean, spread = felt.mean(0), felt.std(0) + 1e-3 * felt.std() + 1e-6
    x = (felt - mean) / spread
    aim = torch.from_numpy((lessons.logits if throw_away.frozen is None else lessons.features)[chosen])  # type: ignore[index]
    ridge = x.T @ x + 0.01 * len(x) * torch.eye(x.shape[1])
    _fold(throw_away.adapt, torch.linalg.solve(ridge, x.T @ (aim - aim.mean(0))).T, aim.mean(0), mean, spread)
    wanted = torch.from_numpy(lessons.wanted[chosen])
    weight = torch.zeros(wanted.shape[1], x.shape[1], requires_grad=True)
    bias = wanted.mean(0).clamp(min=1e-3).log().requires_grad_()
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=40, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -(wanted * F.log_softmax(x @ weight.T + bias, 1)).sum(1).mean() + 0.01 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    _fold(student.classify, weight.detach(), bias.detach(), mean, spread)


def _fold(layer: nn.Linear, weight: Tensor, bias: Tensor, mean: Tensor, spread: Tensor) -> None:
    """Set a layer to `weight · (x − mean) / spread + bias`."""
    with torch.no_grad():
        layer.weight.copy_(weight / spread)
        layer.bias.copy_(bias - (weight / spread) @ mean)


def predict(network: nn.Module, pixels: Pixels, mean: float, scale: float, batch: int = 128) -> Floats:
    """Return a network's outputs for uint8 pictures (N, H, W, 3), float32 (N, outputs); it computes where it lies."""
    network.eval()
    where = next(network.parameters()).device
    outputs = []
    with torch.inference_mode():
        for begin in range(0, len(pixels), batch):
            x = torch.from_numpy(np.ascontiguousarray(pixels[begin : begin + batch])).to(where)
            outputs.append(network(normalise(x, mean, scale)).cpu().numpy())
    return np.concatenate(outputs) if outputs else np.zeros((0, 0), np.float32)


def _parameter_groups(both: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """What came from the teacher learns slowest, fresh networks fastest; norms and biases do not decay."""
    pretrained = any(getattr(module, "fixed_norms", False) for module in both.modules())
    rates = {id(p): _rate(name, pretrained) for name, p in both.named_parameters()}
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for parameter in both.parameters():
        if parameter.requires_grad:
            groups.setdefault((rates[id(parameter)], parameter.ndim > 1), []).append(parameter)
    return [
        {"params": p, "factor": rate, "weight_decay": recipe.weight_decay if decays else 0.0}
        for (rate, decays), p in groups.items()
    ]


def _rate(name: str, pretrained: bool) -> float:
    if ".core." not in f".{name}":
        return HEAD_RATE
    return 1.0 if pretrained else FRESH_RATE


def _schedule(done: float) -> float:
    warm = min(1.0, done / 0.05 + 0.02)
    return warm * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-3


@dataclass(frozen=True)
class _Batch:
    """Augmented pictures float32 (N, 3, H, W), or what the blocks that stand still make of them, and the answers."""

    x: Tensor
    wanted: Tensor
    logits: Tensor
    features: Tensor | None


class _Material:
    """Lessons on the device that trains. Chances are drawn here, so that every device is dealt the same ones.

    Blocks that stand still make the same of the same picture, and most of a step's time would go there: what they
    make of an augmented version is kept and used `USES` times before the version is made anew, `VERSIONS` at once.
    """

    def __init__(self, lessons: Lessons, where: torch.device, held: _Held | None) -> None:
        """Copy what is needed again and again to `where`; nothing where the processor trains."""
        self._lessons, self._where, self._held = lessons, where, held
        self._pixels, self._wanted, self._logits = (
            torch.from_numpy(array).to(where) for array in (lessons.pixels, lessons.wanted, lessons.logits)
        )
        self._features = None if lessons.features is None else torch.from_numpy(lessons.features).to(where)
        self.deviation = None if self._features is None else _deviation(self._features)
        self._kept: Tensor | None = None
        self._versions = 0
        self._uses = np.zeros(0, np.int8)

    def draw(self, size: int, generator: np.random.Generator) -> _Batch:
        """Return a batch: shifted, mirrored, brighter or darker."""
        chosen = generator.choice(len(self._pixels), size, p=self._lessons.weights)
        chances = _Chances.draw(size, self._pixels.shape[1], generator)
        x = self._augmented(chosen, chances) if self._held is None else self._early(chosen, chances, generator)
        places = torch.from_numpy(chosen).to(self._where)
        features = None if self._features is None else self._features[places]
        return _Batch(x, self._wanted[places], self._logits[places], features)

    def _augmented(self, chosen: Ints, chances: "_Chances") -> Tensor:
        pixels = self._pixels[torch.from_numpy(chosen).to(self._where)]
        x = normalise(_shift(pixels, chances.down, chances.right), self._lessons.mean, self._lessons.scale)
        mirrored, contrast, light = (
            torch.from_numpy(chance[:, None, None, None]).to(self._where)
            for chance in (chances.mirrored, chances.contrast, chances.light)
        )
        x = torch.where(mirrored, x.flip(3), x) * contrast + light
        return x.contiguous(memory_format=accelerator.memory_format())

    @torch.no_grad()
    def _early(self, chosen: Ints, chances: "_Chances", generator: np.random.Generator) -> Tensor:
        assert self._held is not None
        core, count = self._held.core, self._held.count
        if self._kept is None:
            self._make_room(core.early(self._augmented(chosen[:1], chances.of(slice(1))), count))
        assert self._kept is not None
        places = chosen * self._versions + generator.integers(0, self._versions, len(chosen))
        # A place met twice in a batch is written once: which of two writes stays would be chance.
        met, first = np.unique(places, return_index=True)
        stale = first[self._uses[met] == 0]
        if len(stale):
            made = core.early(self._augmented(chosen[stale], chances.of(stale)), count)
            self._kept[torch.from_numpy(places[stale]).to(self._where)] = made.half()
            self._uses[places[stale]] = USES
        self._uses[places] -= 1
        x = self._kept[torch.from_numpy(places).to(self._where)].float()
        return x.contiguous(memory_format=accelerator.memory_format())

    def _make_room(self, one: Tensor) -> None:
        room = MOST_KEPT_BYTES // (2 * one.numel() * len(self._pixels))
        self._versions = int(np.clip(room, 1, VERSIONS))
        count = len(self._pixels) * self._versions
        self._kept = torch.empty((count, *one.shape[1:]), dtype=torch.float16, device=self._where)
        self._uses = np.zeros(count, np.int8)


@dataclass(frozen=True)
class _Chances:
    """How a batch of N is augmented: one shift in pixels for all, the rest (N,)."""

    down: int
    right: int
    mirrored: NDArray[np.bool_]
    contrast: Floats
    light: Floats

    @classmethod
    def draw(cls, size: int, side: int, generator: np.random.Generator) -> "_Chances":
        """Draw them; shifts are of up to 4 % of `side`."""
        most = max(1, side // 24)
        down, right = (int(by) for by in generator.integers(-most, most + 1, 2))
        mirrored = generator.random(size) < 0.5
        contrast = generator.uniform(0.8, 1.2, size).astype(np.float32)
        return cls(down, right, mirrored, contrast, generator.uniform(-0.15, 0.15, size).astype(np.float32))

    def of(self, some: Ints | slice) -> "_Chances":
        """Return those of some of the batch."""
        return replace(self, mirrored=self.mirrored[some], contrast=self.contrast[some], light=self.light[some])


def _shift(pixels: Tensor, down: int, right: int) -> Tensor:
    """Move uint8 (N, H, W, 3) by some pixels, repeating the border."""
    side = torch.arange(pixels.shape[1], device=pixels.device)
    rows, columns = ((side + by).clamp(0, len(side) - 1) for by in (down, right))
    return pixels[:, rows][:, :, columns]


def _loss(
    outputs: Tensor, guessed: Sequence[Tensor], batch: _Batch, deviation: Tensor | None, recipe: Recipe
) -> Tensor:
    """Compare K+1 logits, and the throw-away head's features and logits, with a batch's answers."""
    loss = -(batch.wanted * F.log_softmax(outputs, 1)).sum(1).mean() * recipe.wanted_weight
    logits, *features = guessed
    heat = recipe.logits_temperature
    divergence = F.kl_div(F.log_softmax(logits / heat, 1), F.softmax(batch.logits / heat, 1), reduction="batchmean")
    loss = loss + recipe.logits_weight * heat * divergence
    if features and batch.features is not None and deviation is not None:
        loss = loss + recipe.features_weight * ((features[0] - batch.features) / deviation).square().mean()
    return loss


def _deviation(features: Tensor) -> Tensor:
    """Return the spread of each teacher feature, so that none counts more than another."""
    spread = features.std(0, correction=0)
    return torch.maximum(spread, 0.1 * spread.mean() + 1e-6)


def _follow(average: nn.Module, student: nn.Module, decay: float) -> None:
    with torch.no_grad():
        ours = [*average.parameters(), *(b for b in average.buffers() if b.dtype.is_floating_point)]
        theirs = [*student.parameters(), *(b for b in student.buffers() if b.dtype.is_floating_point)]
        torch._foreach_lerp_(ours, theirs, 1 - decay)


def _state(
    both: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: np.random.Generator,
    curve: list[dict[str, float]],
    step: int,
    spent: float,
) -> dict[str, Any]:
    return {
        "networks": both.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "generator": generator.bit_generator.state,
        "curve": curve,
        "step": step,
        "spent": spent,
    }
