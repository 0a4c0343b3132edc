"""What a student may take where no latency is asked for: a twentieth of its teacher's time on this machine."""

from pathlib import Path

import pytest

from distillnet.cloud import boards, budget, measure
from distillnet.cloud.application import BudgetSection
from distillnet.cloud.core import BlockShape, Classifier, CoreNet, CoreShape
from distillnet.cloud.measure import litert_ratio
from distillnet.engine.profile import Profile, this_machine


@pytest.fixture(scope="module")
def whole() -> Classifier:
    """A network of one block."""
    shape = CoreShape(8, (BlockShape(8, 16, 8, 3, 1, expands=True, residual=True),), 16)
    return Classifier(CoreNet(shape), 16, 3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for moments: these figures are looked at for their kind."""
    monkeypatch.setattr(measure, "SECONDS", 0.05)


def test_litert_beside_the_engine_is_measured_once(tmp_path: Path) -> None:
    board = boards.find("x86-64", tmp_path)
    ratio = litert_ratio(board, tmp_path)
    assert 0.3 < ratio < 10
    (kept,) = (tmp_path / "litert-ratios").iterdir()
    assert float(kept.read_text()) == pytest.approx(ratio, rel=1e-3)
    kept.write_text("7.5\n")
    assert litert_ratio(board, tmp_path) == 7.5
    kept.write_text("")
    anew = litert_ratio(board, tmp_path)
    assert float(kept.read_text()) == pytest.approx(anew, rel=1e-3)


def test_another_table_is_measured_anew(tmp_path: Path) -> None:
    board = boards.find("x86-64", tmp_path)
    slower = board.model_copy(update={"network_factor": 2 * board.network_factor})
    for each in (board, slower):
        litert_ratio(each, tmp_path)
    assert len(list((tmp_path / "litert-ratios").iterdir())) == 2


def test_a_twentieth_is_of_what_was_measured_on_this_machine(tmp_path: Path, whole: Classifier) -> None:
    section = BudgetSection(board=this_machine())
    if section.board not in boards.names():
        pytest.skip("no table is of machines of this kind: what was measured has nothing to scale")
    twice, thrice = (
        budget.of_application(section, tmp_path, whole, 64, lambda _, ratio=ratio: ratio) for ratio in (2.0, 3.0)
    )
    assert thrice.ms == pytest.approx(1.5 * twice.ms)
    assert twice.ms == pytest.approx(twice.network_ms(whole, 64) * 2 / budget.SPEEDUP / budget.SURPRISE)


def test_another_board_has_its_own_ratio(tmp_path: Path, whole: Classifier) -> None:
    def measured(_: Profile) -> float:
        raise AssertionError("this machine says nothing about that board")

    board = next(name for name in boards.names() if name != this_machine())
    asked = BudgetSection(board=board)
    assert (
        budget.of_application(asked, tmp_path, whole, 64, measured).ms
        == budget.of_application(asked, tmp_path, whole, 64).ms
    )


def test_a_latency_that_is_asked_for_is_not_measured(tmp_path: Path, whole: Classifier) -> None:
    asked = BudgetSection(latency_ms=0.7)
    assert budget.of_application(asked, tmp_path, whole, 64, lambda _: 1 / 0).ms == 0.7
