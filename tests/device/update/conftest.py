"""A board enrolled with a simulated cloud, and students small enough to build in a moment."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))

from board import Board
from simulated_cloud import SimulatedCloud

from distillnet.device.update import admission


@pytest.fixture
def cloud() -> Iterator[SimulatedCloud]:
    with SimulatedCloud() as running:
        yield running


@pytest.fixture
def make_board(cloud: SimulatedCloud, tmp_path: Path, quick_trial: None) -> Iterator[Callable[..., Board]]:
    boards: list[Board] = []

    def make(name: str = "porch", **update: object) -> Board:
        board = Board(cloud, tmp_path / name, name, update)
        boards.append(board)
        return board

    yield make
    for board in boards:
        board.stop()


@pytest.fixture
def board(make_board: Callable[..., Board]) -> Board:
    """Enrolled, running version 1."""
    running = make_board().enroll().start()
    assert running.take(1).reason == ""
    return running


@pytest.fixture
def quick_trial(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Skip the self-test's process apart (a second each) unless a test is marked `trial`."""
    if "real_trial" not in request.fixturenames:
        monkeypatch.setattr(admission, "try_apart", lambda *_, **__: None)


@pytest.fixture
def real_trial() -> None:
    """Ask for the self-test's own process."""
