"""The update's states have no way round, no way to stick, and survive any number of restarts."""

import itertools

import pytest

from distillnet.device.update import machine
from distillnet.device.update.machine import ENDS, MAX_TRANSITIONS, NEXT, TransitionError
from distillnet.device.update.record import HISTORY, Installed, Record, Slots, Update


def installed(version: int) -> Installed:
    return Installed(application="pets", version=version, digest=f"sha256:{version:064x}")


def wanted(version: int, directive: str = "") -> Update:
    student = installed(version)
    return Update(application="pets", version=version, digest=student.digest, directive=directive or f"d{version}")


def on_trial(phase: str) -> Record:
    """A record whose update to version 2 stands in `phase`."""
    record = machine.begin(Record(slots=Slots(current=installed(1))), wanted(2), 10.0)
    for following in ("verifying", "self-test", "shadow", "switched", "probation"):
        if record.update.phase == phase:
            break
        candidate = installed(2) if following == "self-test" else None
        record = machine.step(record, following, candidate=candidate)
    assert record.update.phase == phase
    return record


def test_commit_turns_the_slots_in_one_step():
    record = machine.commit(on_trial("probation"), 20.0)
    assert record.slots == Slots(current=installed(2), previous=installed(1))
    assert record.update.result == "committed"
    assert record.answered("d2").result == "committed"


@pytest.mark.parametrize("phase", ["switched", "probation"])
def test_rollback_keeps_the_current_student_and_its_previous_one(phase):
    record = machine.roll_back(on_trial(phase), "slow", 20.0)
    assert record.slots == Slots(current=installed(1))
    assert (record.update.phase, record.update.reason) == ("rolled-back", "slow")
    assert record.rejected(installed(2).digest).reason == "slow"


@pytest.mark.parametrize("phase", ["fetching", "verifying", "self-test", "shadow"])
def test_refusal_before_the_switch_forgets_the_candidate(phase):
    record = machine.refuse(on_trial(phase), "bad", 20.0, final=False)
    assert record.slots == Slots(current=installed(1))
    assert record.rejected(installed(2).digest) is None


def test_every_step_that_is_not_drawn_is_an_error():
    for start, target in itertools.product(NEXT, NEXT):
        record = Record(update=Update(phase=start, application="pets", digest=installed(2).digest))
        if target in NEXT[start]:
            assert machine.step(record, target).update.phase == target
        else:
            with pytest.raises(TransitionError, match=f"no step from {start} to {target}"):
                machine.step(record, target)


def test_every_state_can_reach_an_end_and_ends_begin_again():
    for start in NEXT:
        reached, frontier = set(), {start}
        while frontier:
            reached |= frontier
            frontier = {following for phase in frontier for following in NEXT[phase]} - reached
        assert reached & (ENDS - {"idle"})


def test_an_update_that_goes_round_in_circles_is_cut_off():
    record = on_trial("switched")
    with pytest.raises(TransitionError, match="steps in one update"):
        for _ in range(MAX_TRANSITIONS + 1):
            record = machine.step(record, "switched")
    assert machine.roll_back(record, "circles", 1.0).update.phase == "rolled-back"


@pytest.mark.parametrize("phase", ["verifying", "self-test", "shadow", "switched", "probation"])
def test_daemon_that_dies_twice_in_a_phase_gives_the_update_up(phase):
    record = on_trial(phase).model_copy(update={"clean_stop": False})
    record = machine.started(record, 2, 1.0)
    assert record.update.phase == phase and record.update.restarts == 1
    record = machine.started(record, 2, 1.0)
    assert record.update.phase in ("refused", "rolled-back")
    assert f"died 2 times in {phase}" in record.update.reason
    assert record.slots.current == installed(1)


def test_clean_stops_and_interrupted_downloads_do_not_count():
    fetching = on_trial("fetching").model_copy(update={"clean_stop": False})
    probation = on_trial("probation")
    for _ in range(10):
        fetching = machine.started(fetching, 2, 1.0)
        probation = machine.started(probation, 2, 1.0).model_copy(update={"clean_stop": True})
    assert fetching.update.phase == "fetching" and fetching.update.restarts == 0
    assert probation.update.phase == "probation" and probation.update.restarts == 0


def test_swap_back_exchanges_the_students_and_does_not_retake_the_one_left():
    record = Record(slots=Slots(current=installed(2), previous=installed(1)))
    back = machine.swap_back(record, "d9", "misses cats", "directive", 5.0)
    assert back.slots == Slots(current=installed(1), previous=installed(2))
    assert back.rejected(installed(2).digest) is not None
    assert back.rejected(installed(1).digest) is None
    assert back.answered("d9").version == 1


def test_history_is_bounded():
    record = Record(slots=Slots(current=installed(1)))
    for index in range(HISTORY + 10):
        record = machine.refuse(machine.begin(record, wanted(2, f"d{index}"), 1.0), "no", 1.0, final=False)
    assert len(record.history) == HISTORY
    assert record.answered("d0") is None and record.answered(f"d{HISTORY + 9}") is not None


def test_second_update_starts_from_zero():
    record = machine.timed(machine.commit(on_trial("probation"), 20.0), "probation", 5.0)
    record = machine.begin(record, wanted(3), 30.0)
    assert (record.update.transitions, record.update.restarts, record.update.durations_ms) == (1, 0, {})


def test_update_cannot_begin_while_another_is_under_way():
    with pytest.raises(TransitionError, match="under way"):
        machine.begin(on_trial("self-test"), wanted(3), 1.0)
