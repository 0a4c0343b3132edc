"""Ray would be useless if it found other results than `local`, lost one with its worker, or hid an error."""

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_race import course, weights

from distillnet.cloud import race
from distillnet.cloud.course import Course
from distillnet.cloud.executor import RETRIES, CancelledError, Executor, ExecutorError, open_executor
from distillnet.cloud.training import Recipe
from distillnet.proto.strict import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")

PORT = 26379
NODES = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A head that runs nothing and four node processes of one CPU each."""
    temp = Path(tempfile.mkdtemp(prefix="dnray", dir="/tmp"))  # a socket path must be short
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent),
        "RAY_ENABLE_MULTI_NODE_CLUSTER": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "180",  # a busy machine takes its time
    }
    ray = str(Path(sys.executable).with_name("ray"))
    small = ["--object-store-memory", "80000000", "--disable-usage-stats"]
    starts = [
        ["--head", "--port", str(PORT), "--num-cpus", "0", "--include-dashboard", "false", "--temp-dir", str(temp)]
    ]
    starts += [["--address", f"127.0.0.1:{PORT}", "--num-cpus", "1"] for _ in range(NODES)]
    processes = []
    try:
        for options in starts:
            command = [ray, "start", "--block", *options, *small]
            processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            if len(processes) == 1:
                _wait_for_head()
            _wait_for_nodes(len(processes))  # those that start together choose the same ports
        yield f"127.0.0.1:{PORT}"
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(temp, ignore_errors=True)


def _wait_for_head() -> None:
    end = time.monotonic() + 200
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), 1):
            return
        time.sleep(0.2)
    raise RuntimeError("the head of the Ray cluster did not come up")


def _wait_for_nodes(wanted: int) -> None:
    import ray

    end = time.monotonic() + 200
    while True:
        try:
            ray.init(address=f"127.0.0.1:{PORT}", logging_level="error", log_to_driver=False)
            count = len([node for node in ray.nodes() if node["Alive"]])
        except (ConnectionError, RuntimeError):
            count = 0
        ray.shutdown()
        if count == wanted:
            return
        assert time.monotonic() < end, f"only {count} of {wanted} nodes came up"
        time.sleep(0.5)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("executor_jobs")


def test_the_race_has_the_same_winner_on_two_and_four_workers_as_locally(cluster: str, tmp_path: Path) -> None:
    recipe = Recipe(seconds=float("inf"), steps=8, batch=8)

    def winner(place: str, executor: Executor) -> tuple[list[tuple[str, float]], torch.Tensor]:
        courses = [course(name, tmp_path / place, recipe, seed=index) for index, name in enumerate("abcd")]
        with executor:
            out = race.run(courses, lambda some, share: executor.map(partial(Course.teach, share=share), some))
        return [(trained.entrant.name, trained.merit) for trained in out], weights(out[0])

    ranking, learnt = winner("local", open_executor("local", workers=2))
    for workers in (2, 4):
        found = winner(f"ray-{workers}", open_executor("ray", workers=workers, address=cluster))
        assert found[0] == ranking, f"{workers} workers"
        assert torch.equal(found[1], learnt), f"{workers} workers"


def test_a_job_may_have_workers_of_its_own(cluster: str, jobs: Any) -> None:
    with open_executor("ray", workers=2, address=cluster) as executor:
        assert executor.map(jobs.has_workers_of_its_own, [("ray", 0), ("ray", 2)]) == [[0, 1], [4, 9]]


def test_jobs_run_on_several_nodes_at_once(cluster: str, jobs: Any) -> None:
    seen: list[tuple[int, int]] = []
    with open_executor("ray", workers=4, address=cluster) as executor:
        nodes = executor.map(jobs.node, [2.0] * 4, progress=lambda *at: seen.append(at))
    assert len(set(nodes)) >= 2
    assert seen[-1] == (4, 4)


def test_a_killed_worker_costs_no_result(cluster: str, jobs: Any, tmp_path: Path) -> None:
    places = [tmp_path / name for name in "abcd"]
    with open_executor("ray", workers=4, address=cluster) as executor:
        assert executor.map(jobs.die_once, places) == ["a", "b", "c", "d"]


def test_an_item_that_kills_every_worker_is_an_error(cluster: str, jobs: Any) -> None:
    with (
        open_executor("ray", workers=2, address=cluster) as executor,
        pytest.raises(ExecutorError, match=rf"item 1 took its worker down {RETRIES + 1} times"),
    ):
        executor.map(jobs.die, [0])


def test_an_error_of_the_function_arrives_as_it_was_raised(cluster: str, jobs: Any) -> None:
    with (
        open_executor("ray", workers=2, address=cluster) as executor,
        pytest.raises(ConfigError, match="item 1 is bad") as caught,
    ):
        executor.map(jobs.refuse, [0, 1, 2])
    assert "in refuse" in str(caught.value.__cause__)


def test_cancel_ends_what_is_under_way(cluster: str, jobs: Any, tmp_path: Path) -> None:
    with open_executor("ray", workers=1, address=cluster) as executor:

        def cancel_when_begun() -> None:
            while not (tmp_path / "begun").exists():
                time.sleep(0.01)
            executor.cancel()

        threading.Thread(target=cancel_when_begun).start()
        with pytest.raises(CancelledError):
            executor.map(jobs.wait, [tmp_path / "begun"])


def test_no_cluster_and_no_gpu_are_said(cluster: str) -> None:
    with pytest.raises(ExecutorError, match="no node of the Ray cluster has 1 GPUs"):
        open_executor("ray", address=cluster, gpus=1)
