"""The application file: what it means, and what is refused before any work begins."""

import pytest

from distillnet.cloud.application import Application
from distillnet.proto.strict import ConfigError, validate

LEAST = {
    "application": {"name": "yard"},
    "event": [{"name": "dog", "classes": ["151"]}],
    "data": {"unlabelled": ["door.mp4"]},
}


def read(**sections):
    return validate(LEAST | sections, Application, where="yard.app.toml")


@pytest.mark.parametrize(
    ("budget", "rate"),
    [
        ({}, 0.01),
        ({"false_alarm_rate": 0.05}, 0.05),
        ({"false_alarms_per_hour": 36}, 0.01),
    ],
)
def test_a_false_alarm_budget_becomes_a_rate_of_judgements(budget, rate):
    assert read(budget=budget).budget.alarm_rate == pytest.approx(rate)


def test_two_false_alarm_budgets_are_refused():
    with pytest.raises(ConfigError, match="not both"):
        read(budget={"false_alarm_rate": 0.1, "false_alarms_per_hour": 1})


def test_an_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown key 'latency' in budget; did you mean 'latency_ms'"):
        read(budget={"latency": 5})


def test_two_events_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="event 'dog' is there twice"):
        read(event=LEAST["event"] * 2)
