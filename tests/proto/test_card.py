"""A card that contradicts itself is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from distillnet.proto.card import Card

GOOD: dict[str, Any] = {
    "application": "demo",
    "events": [
        {"name": "dog", "index": 0, "threshold": 0.6, "exit_threshold": 0.4},
        {"name": "cat", "index": 2, "threshold": 0.6, "exit_threshold": 0.4},
    ],
    "other": 1,
    "input": {"kind": "image", "height": 96, "width": 96},
    "teacher": {"name": "t", "source": "s"},
}


def test_labels_follow_the_outputs() -> None:
    assert Card.model_validate(GOOD).labels == ["dog", "other", "cat"]


@pytest.mark.parametrize(
    "change",
    [
        {"other": 0},
        {"other": 5},
        {"application": "Has Spaces"},
        {"format_version": 2},
        {"surprise": 1},
        {"events": []},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"events": [{"name": "other", "index": 0, "threshold": 0.6, "exit_threshold": 0.4}]},
        {"events": [{"name": "dog", "index": 0, "threshold": 0.4, "exit_threshold": 0.6}]},
        {"input": {"kind": "image", "height": 0, "width": 96}},
        {"input": {"kind": "smell"}},
    ],
)
def test_a_contradiction_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Card.model_validate(GOOD | change)
