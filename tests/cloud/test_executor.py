"""The executor would be broken if results came in another order, a killed worker cost one, or an error got lost."""

import importlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from distillnet.cloud.executor import RETRIES, CancelledError, ExecutorError, open_executor
from distillnet.proto.strict import ConfigError


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("executor_jobs")


def test_results_come_in_the_order_of_the_items(jobs: Any) -> None:
    seen: list[tuple[int, int]] = []
    with open_executor("local", workers=2) as executor:
        assert executor.map(jobs.later_first, [0, 1, 2, 3], progress=lambda *at: seen.append(at)) == [0, 1, 4, 9]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_job_may_have_workers_of_its_own(jobs: Any) -> None:
    with open_executor("local", workers=2) as executor:
        assert executor.map(jobs.has_workers_of_its_own, [("local", 0), ("local", 2)]) == [[0, 1], [4, 9]]


def test_a_killed_worker_costs_no_result(jobs: Any, tmp_path: Path) -> None:
    places = [tmp_path / name for name in "abc"]
    with open_executor("local", workers=2) as executor:
        assert executor.map(jobs.die_once, places) == ["a", "b", "c"]


def test_an_item_that_kills_every_worker_is_an_error_not_a_loop(jobs: Any) -> None:
    with open_executor("local") as executor:
        with pytest.raises(ExecutorError, match=rf"item 1 took its worker down {RETRIES + 1} times"):
            executor.map(jobs.die, [0])
        assert executor.map(jobs.later_first, [3]) == [9], "the executor can go on"


def test_an_error_of_the_function_arrives_as_it_was_raised(jobs: Any) -> None:
    with open_executor("local", workers=2) as executor:
        with pytest.raises(ConfigError, match="item 1 is bad") as caught:
            executor.map(jobs.refuse, [0, 1, 2])
        assert "in refuse" in str(caught.value.__cause__), "where it happened must be said"
        assert executor.map(jobs.refuse, [2, 3]) == [2, 3]


def test_workers_stay_from_one_map_to_the_next_and_have_their_threads(jobs: Any) -> None:
    with open_executor("local", workers=1, threads=2) as executor:
        assert executor.map(jobs.who, [0]) == executor.map(jobs.who, [1])
        assert executor.map(jobs.who, [0])[0][1] == "2"


def test_cancel_ends_what_is_under_way(jobs: Any, tmp_path: Path) -> None:
    with open_executor("local") as executor:

        def cancel_when_begun() -> None:
            while not (tmp_path / "begun").exists():
                time.sleep(0.01)
            executor.cancel()

        threading.Thread(target=cancel_when_begun).start()
        with pytest.raises(CancelledError):
            executor.map(jobs.wait, [tmp_path / "begun"])


def test_a_cancellation_that_comes_before_the_work_is_not_forgotten(jobs: Any, tmp_path: Path) -> None:
    with open_executor("local") as executor:
        executor.cancel()
        with pytest.raises(CancelledError):
            executor.map(jobs.wait, [tmp_path / "begun"])
