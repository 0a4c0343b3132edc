"""The report says what the facts say, stands alone, and refuses what is not a number."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillnet.cloud import report
from distillnet.proto.strict import ConfigError

VOID = {"meta", "img", "br"}


@pytest.fixture
def facts() -> dict[str, Any]:
    """What a pipeline tells about one real distillation, in numbers of real size."""
    rng = np.random.default_rng(0)
    layers = []
    for block in range(16):
        total = [96, 144, 144, 240, 240, 480, 480, 672][block // 2]
        scores = np.sort(rng.gamma(0.7, 1.0, total))[::-1]
        layers.append({"layer": f"blocks.{block}.expand", "kept": int(total * (0.25 + 0.5 * rng.random())) // 8 * 8,
                       "total": total, "scores": scores.round(4).tolist()})  # fmt: skip
    far = np.logspace(-3.3, 0, 40)
    det = {
        name: [[0.0, 1.0], *([float(x), float(max(0, a * (1 - x**0.25)))] for x in far)]
        for name, a in (("dog", 0.42), ("cat", 0.55), ("goose", 0.3))
    }
    operating = {name: det[name][20] for name in det}
    steps = range(0, 2000, 50)
    return {
        "application": "backyard", "version": 3, "created": "2026-11-24T04:10:00Z", "machine": "x86-64, AVX-512 VNNI",
        "threads": 1, "student_bytes": 823_104, "teacher_bytes": 4_652_008, "student_latency_ms": 1.83,
        "teacher_latency_ms": 14.9, "speedup": 8.14, "macs": 24_300_000, "arena_bytes": 331_776, "budget_ms": 2.5,
        "agreement": 0.934, "agreement_ci": [0.918, 0.947], "agreement_n": 1200,
        "int8_loss": {"float": 0.861, "int8": 0.858, "value": 0.003, "ci_low": -0.002, "ci_high": 0.008, "n": 1200},
        "events": [
            {"name": "dog", "classes": ["German shepherd", "Labrador retriever", "golden retriever", "Chihuahua",
             "Yorkshire terrier", "standard poodle", "beagle"], "threshold": 0.61, "exit_threshold": 0.43,
             "recall": 0.86, "recall_ci": [0.83, 0.885], "n": 600},
            {"name": "cat", "classes": ["tabby", "Egyptian cat"], "threshold": 0.72, "exit_threshold": 0.5,
             "recall": 0.69, "recall_ci": [0.63, 0.74], "n": 300},
            {"name": "goose", "classes": [], "threshold": 0.55, "exit_threshold": 0.39, "recall": 0.8,
             "recall_ci": [0.71, 0.87], "n": 100},
        ],
        "baselines": [
            {"name": "this student (int8)", "metric": "macro_recall", "value": 0.842, "ci_low": 0.82, "ci_high": 0.861,
             "n": 1000, "split": "test", "chosen": True},
            {"name": "teacher, asked as it is", "metric": "macro_recall", "value": 0.45, "ci_low": 0.42,
             "ci_high": 0.48, "n": 1000, "split": "test"},
            {"name": "linear probe on the teacher", "metric": "macro_recall", "value": 0.84, "ci_low": 0.818,
             "ci_high": 0.859, "n": 1000, "split": "test"},
        ],
        "candidates": [
            {"name": "essential core", "macs": 24_300_000, "latency_ms": 1.83, "accuracy": 0.858, "ci_low": 0.84,
             "ci_high": 0.874, "chosen": True, "why": "most accurate within 2.5 ms"},
            {"name": "compact 0.35", "macs": 19_000_000, "latency_ms": 1.52, "accuracy": 0.801, "ci_low": 0.78,
             "ci_high": 0.82, "chosen": False, "why": "stopped after round 2"},
            {"name": "slim teacher", "macs": 31_000_000, "latency_ms": 2.41, "accuracy": 0.842, "ci_low": 0.82,
             "ci_high": 0.86, "chosen": False, "why": "slower, not better"},
            {"name": "dropped blocks", "macs": 26_000_000, "latency_ms": 1.9, "accuracy": 0.85, "ci_low": 0.83,
             "ci_high": 0.87, "chosen": False, "why": "slower, not better"},
        ],
        "confusion": {"labels": ["dog", "cat", "goose", "other"],
                      "matrix": [[516, 20, 1, 63], [25, 207, 2, 66], [0, 1, 80, 19], [14, 11, 6, 969]]},
        "relevance": layers, "det": {**det, "operating": operating},
        "learning": [{"step": s, "seconds": s * 0.11, "loss": 2.1 * float(np.exp(-s / 500)) + 0.3,
                      "agreement": 0.94 - 0.6 * float(np.exp(-s / 400)) if s % 200 == 0 else None} for s in steps],
        "seconds": {"teacher": 84.0, "relevance": 21.5, "distillation": 612.0, "export": 33.1, "total": 750.6},
        "teacher": {"name": "EfficientNet-Lite0", "source": "efficientnet-lite0", "licence": "Apache-2.0",
                    "digest": "sha256:" + "5a" * 32},
        "data": [{"name": "tiny-imagenet", "digest": "sha256:" + "3c" * 32, "licence": "research only", "n": 10_800}],
        "splits": {"train": 8000, "validation": 1600, "test": 1200}, "seed": 0,
        "notes": ["Agreement is with the teacher's answers, not with people's labels.",
                  "Latency was measured on this machine, not on a board."],
    }  # fmt: skip


class _Page(HTMLParser):
    """Collects resources and checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.resources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_text(facts: dict[str, Any]) -> str:
    page = _Page()
    page.feed(report.page(facts))
    return page.text


def _read(directory: Path) -> _Page:
    page = _Page()
    page.feed((directory / "report.html").read_text(encoding="utf-8"))
    assert not page.open
    return page


def test_the_page_stands_alone_and_shows_every_section(tmp_path: Path, facts: dict[str, Any]) -> None:
    report.write(tmp_path, facts)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == facts
    page = _read(tmp_path)
    assert len(page.resources) == 7
    assert all(resource.startswith("data:image/svg+xml;base64,") for resource in page.resources)
    assert not re.search(r"@import|url\(|<script", (tmp_path / "report.html").read_text(encoding="utf-8"))
    for text in ("backyard", "93.4 %", "91.8–94.7 %, n = 1200", "8.1×", "823 kB", "5.7× smaller", "0.3 pt",
                 "teacher, asked as it is", "most accurate within 2.5 ms", "not on a board", "seed 0"):  # fmt: skip
        assert text in page.text


def test_the_json_is_sorted(tmp_path: Path) -> None:
    report.write(tmp_path, {"seed": 1, "application": "tiny", "macs": 2})
    assert list(json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))) == ["application", "macs", "seed"]


def test_the_same_facts_give_the_same_bytes(tmp_path: Path, facts: dict[str, Any]) -> None:
    some = {key: facts[key] for key in ("application", "learning", "confusion")}
    for name in ("a", "b"):
        report.write(tmp_path / name, some)
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()


def test_only_the_application_is_required(tmp_path: Path) -> None:
    report.write(tmp_path, {"application": "tiny"})
    page = _read(tmp_path)
    assert page.text.count("tiny") == 2
    assert not page.resources


def test_facts_with_gaps_are_shown_with_dashes(facts: dict[str, Any]) -> None:
    for row in facts["candidates"]:
        row.pop("ci_low"), row.pop("ci_high"), row.update(macs=None)
    facts["candidates"][1]["latency_ms"] = None
    facts["events"] = [{"name": "dog"}]
    kept = {key: facts[key] for key in ("application", "candidates", "events", "teacher")}
    assert page_text(kept).count("–") >= 8


def test_empty_and_missing_parts_are_left_out(tmp_path: Path, facts: dict[str, Any]) -> None:
    facts |= {"candidates": [], "det": {}, "learning": [], "baselines": [], "relevance": [], "notes": [], "events": []}
    report.write(tmp_path, facts)
    assert "What was tried" not in _read(tmp_path).text


def test_text_cannot_become_markup(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    report.write(tmp_path, {"application": bad, "notes": [bad], "machine": bad,
                            "events": [{"name": bad, "classes": [bad]}]})  # fmt: skip
    assert "<script" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f["events"][1].update(recall=float("nan")), r"facts\.events\[1\]\.recall is nan"),
        (lambda f: f.update(speedup=float("inf")), r"facts\.speedup is inf"),
        (lambda f: f.update(macs=np.int64(3)), r"facts\.macs is a int64; JSON cannot hold it"),
        (lambda f: f.update(splits={1: 2}), r"facts\.splits has a key that is not text: 1"),
        (lambda f: f.pop("application"), "need `application`"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_name(
    tmp_path: Path, facts: dict[str, Any], spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    spoil(facts)
    with pytest.raises(ConfigError, match=message):
        report.write(tmp_path, facts)
    assert not list(tmp_path.iterdir())
