"""The comparison runs every arm on equal terms, goes on where it stopped, and shows what it measured."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_archive import make_archive

from distillnet.cloud.classes import ClassList
from distillnet.cloud.core import BlockShape, Classifier, CoreNet, CoreShape, macs, slimmed
from distillnet.cloud.evaluation import summary, vision
from distillnet.cloud.evaluation.arms import ARMS, prepare
from distillnet.cloud.evaluation.settings import Settings
from distillnet.cloud.evaluation.tiny_imagenet import Archive, load
from distillnet.cloud.progress import Steps
from distillnet.cloud.teacher import Floats, Pixels, Teacher
from distillnet.proto.strict import ConfigError

SETTINGS = Settings(resolution=32, budget_ms=0.02, steps=2, batch=8)


class _Counting:
    """The teacher's forward pass, and how many pictures it was asked about."""

    def __init__(self, network: Classifier) -> None:
        self.network, self.asked = network, 0

    def __call__(self, pixels: Pixels) -> tuple[Floats, Floats]:
        self.asked += len(pixels)
        with torch.inference_mode():
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().sub(127).div(128)
            features = self.network.core(x)
            return self.network.classify(features).numpy(), features.numpy()


@pytest.fixture
def teacher() -> Teacher:
    """A small network of the family that can be cut, with ImageNet's classes."""
    torch.manual_seed(0)
    blocks = (
        BlockShape(16, 16, 16, 3, 1, False, True),
        BlockShape(16, 48, 16, 3, 2, True, False),
        BlockShape(16, 48, 16, 3, 1, True, True),
        BlockShape(16, 48, 24, 3, 2, True, False),
    )
    network = Classifier(CoreNet(CoreShape(16, blocks, 64)), 64, 1000).eval()
    return Teacher(
        source="small", classes=ClassList.imagenet(), resolution=32, native_resolution=32, mean=127.0, scale=128.0,
        digest="sha256:" + "0" * 64, licence="", forward=_Counting(network), module=network,
    )  # fmt: skip


def _run(tmp_path: Path, teacher: Teacher, arms: Sequence[str], **changes: Any) -> int:
    options: dict[str, Any] = {"seeds": [0], "settings": SETTINGS, "minutes": 5.0} | changes
    return vision.run(
        make_archive(tmp_path / "tiny.zip"), teacher, tmp_path / "results.json", applications=["fruit"], arms=arms,
        cache=tmp_path / "cache", steps=Steps(quiet=True), **options,
    )  # fmt: skip


def test_the_archive_gives_labels_by_event_and_keeps_unseen_classes_apart(tmp_path: Path, teacher: Teacher) -> None:
    task = load(make_archive(tmp_path / "tiny.zip"), "fruit", teacher, tmp_path, Steps(quiet=True))
    assert task.events == ("orange", "lemon")
    assert task.event_classes == ((950,), (951,))
    assert np.bincount(task.train.labels).tolist() == [12, 12, 12]
    assert task.unseen.labels.tolist() == [2] * 12
    orange = task.train.pixels[task.train.labels == 0].mean((0, 1, 2))
    assert orange[0] > orange[1] > orange[2]


def test_the_teacher_is_asked_once_and_says_the_same_from_the_cache(tmp_path: Path, teacher: Teacher) -> None:
    archive = make_archive(tmp_path / "tiny.zip")
    asked, kept = (load(archive, "fruit", teacher, tmp_path / "cache", Steps(quiet=True)) for _ in range(2))
    assert teacher.forward.asked == 84  # type: ignore[attr-defined]
    assert len(asked.train.logits) == 36
    np.testing.assert_array_equal(asked.train.logits, kept.train.logits)
    np.testing.assert_array_equal(asked.train.features, kept.train.features)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("readme", "nothing")
    with pytest.raises(ConfigError, match=r"x\.zip: expected Tiny-ImageNet"):
        Archive(tmp_path / "x.zip")
    with pytest.raises(ConfigError, match="'fruits' is not in the archive; did you mean 'fruit'"):
        make_archive(tmp_path / "tiny.zip").outputs_of("fruits")


def test_a_run_goes_on_with_what_is_missing(tmp_path: Path, teacher: Teacher) -> None:
    assert _run(tmp_path, teacher, ["zero-shot", "probe"], minutes=0.0) == 2
    assert _run(tmp_path, teacher, ["zero-shot"]) == 0
    first = vision.read(tmp_path / "results.json")
    assert _run(tmp_path, teacher, ["zero-shot", "probe"]) == 0
    both = vision.read(tmp_path / "results.json")
    assert [result["arm"] for result in both] == ["zero-shot", "probe"]
    assert both[0] == first[0]
    assert both[1]["provenance"]["data"].startswith("sha256:")
    assert both[1]["float"]["macro_recall"]["value"] > 0.9  # plain colours: even a random network tells them apart


def test_results_that_are_not_ours_are_left_alone(tmp_path: Path, teacher: Teacher) -> None:
    (tmp_path / "results.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="not a file of this comparison"):
        _run(tmp_path, teacher, ["zero-shot"])


def test_a_slim_shape_scales_every_width(teacher: Teacher) -> None:
    core = teacher.classifier.core  # type: ignore[union-attr]
    half = slimmed(core.shape, 0.5)  # type: ignore[arg-type]
    assert (half.stem, half.head) == (8, 32)
    assert [(b.into, b.expanded, b.out) for b in half.blocks] == [(8, 8, 8), (8, 24, 8), (8, 24, 8), (8, 24, 16)]
    assert macs(half, 32) < macs(core.shape, 32) / 2  # type: ignore[arg-type]
    CoreNet(half)(torch.zeros(1, 3, 32, 32))


def test_every_arm_becomes_scores_or_a_network_within_the_budget(tmp_path: Path, teacher: Teacher) -> None:
    task = load(make_archive(tmp_path / "tiny.zip"), "fruit", teacher, tmp_path, Steps(quiet=True))
    ground = prepare(task, teacher, SETTINGS, seed=0, coarse=lambda: task)
    outcomes = {name: arm(ground, lambda amount=1.0, note="": None) for name, (arm, _) in ARMS.items()}
    for name in set(ARMS) - {"zero-shot", "probe", "probe-128", "fine-tuned"}:
        network = outcomes[name].network
        assert network is not None
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
        assert ground.budget.network_ms(network, 32) <= 1.05 * ground.budget.ms, name
    assert outcomes["reinitialised"].macs == outcomes["core"].macs
    assert ground.budget.network_ms(outcomes["fine-tuned"].network, 32) > ground.budget.ms  # type: ignore[arg-type]
    for name in ("zero-shot", "probe", "probe-128"):
        scores = outcomes[name].scores
        assert scores is not None
        assert [part.shape for part in scores] == [(36, 3), (12, 3)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_student_trained_on_one_machine_is_judged_as_an_int8_file_in_the_engine_of_another(
    tmp_path: Path, teacher: Teacher
) -> None:
    assert _run(tmp_path, teacher, ["compact"], only_train=True) == 0
    [trained] = vision.read(tmp_path / "results.json")
    assert "int8" not in trained
    assert _run(tmp_path, teacher, ["compact"]) == 0
    [result] = vision.read(tmp_path / "results.json")
    assert result["float"] == trained["float"]
    assert result["curve"] == trained["curve"]
    assert not list((tmp_path / "cache" / vision.STUDENTS).iterdir())
    assert result["int8"]["macro_recall"]["n"] == result["float"]["macro_recall"]["n"] == 36
    assert result["teacher_litert_ms"] > result["latency_ms"] > 0
    assert result["engine"]["engine"] == "native"
    summary.write([result], tmp_path / "page.md", "results.json")
    assert "| compact |" in (tmp_path / "page.md").read_text(encoding="utf-8")


def _result(arm: str, seed: int, value: float, steps: int = 2, budget: float = 0.25) -> dict[str, Any]:
    figure = {"value": value, "ci_low": value - 0.05, "ci_high": value + 0.05, "n": 36}
    figures = {"macro_recall": figure, "recall_at_1_percent": figure, "unseen_rejected": figure}
    return {
        "application": "fruit", "arm": arm, "seed": seed, "macs": 24_000_000, "float": figures,
        "settings": {"resolution": 96, "budget_ms": budget, "board": "x86-64", "steps": steps, "batch": 64},
        "n": {"train": 10800, "val": 2400, "unseen": 2000}, "seconds": {"training": 50.0, "int8": 10.0},
        "provenance": {"created": "2026-11-24T05:00:00+00:00", "trained_on": "x86_64", "torch": "2", "threads": 2,
                       "revision": "abc", "data": "sha256:" + "1" * 64,
                       "teacher": {"source": "small", "resolution": 128, "digest": ""}},
    }  # fmt: skip


def test_the_page_shows_one_seed_with_its_interval_and_several_with_their_range(tmp_path: Path) -> None:
    results = [_result("zero-shot", 0, 0.4), _result("core", 0, 0.7), _result("core", 1, 0.8)]
    summary.write(results, tmp_path / "page.md", "results.json")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "**0.400** [0.350, 0.450]" in page
    assert "**0.750** (0.700–0.800)" in page
    assert "(0.700–0.800) | 2 | `abc` |" in page
    assert "3 jobs, 3 minutes in all" in page
    assert (tmp_path / "page.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_page_says_by_how_much_the_core_wins_or_loses_and_what_was_not_run(tmp_path: Path) -> None:
    results = [_result("core", 0, 0.7), _result("magnitude", 0, 0.6), _result("probe", 0, 0.8)]
    summary.write(results, tmp_path / "page.md", "results.json")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "- +10.0 / +10.0 over **magnitude** (1 run)" in page
    assert "- -10.0 / -10.0 over **probe** (1 run)" in page
    assert "compact-labels" in page[page.index("## Not run") : page.index("## The arms")]


def test_the_page_shows_an_arm_at_every_budget(tmp_path: Path) -> None:
    results = [_result("core", 0, 0.7), _result("core", 0, 0.8, budget=1.0)]
    cost = {"bytes": 512 * 1024, "latency_ms": 0.3, "teacher_litert_ms": 5.0}
    summary.write([result | cost for result in results], tmp_path / "page.md", "results.json")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page.index("| core | 1 | 24.0 | 512 | 0.300 | 16.7× |") < page.index("| core | 0.25 | 24.0 |")


def test_sizes_are_of_cores_that_others_are_compared_with(tmp_path: Path) -> None:
    results = [_result("core", 0, 0.8, budget=1.0), _result("core", 0, 0.7), _result("magnitude", 0, 0.6)]
    results[0]["settings"]["smaller"] = 2.0
    sizes = [{"bytes": size, "teacher_bytes": 4000, "int8": results[0]["float"]} for size in (2000, 500, 500)]
    cost = {"latency_ms": 0.3, "teacher_litert_ms": 5.0}
    summary.write([r | size | cost for r, size in zip(results, sizes, strict=True)], tmp_path / "page.md", "r.json")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| core | 1 |" in page
    assert "- 8.0× smaller than the int8 teacher" in page


def test_the_page_never_mixes_settings(tmp_path: Path) -> None:
    summary.write([_result("core", 0, 0.9, steps=99), _result("core", 0, 0.7)], tmp_path / "page.md", "results.json")
    assert "0.900" not in (tmp_path / "page.md").read_text(encoding="utf-8")
