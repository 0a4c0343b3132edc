"""The update's states and the only ways between them. Pure: a record in, the next record out.

    idle → fetching → verifying → self-test → [shadow] → switched → probation → committed
              └──────────┴───────────┴───────────┴→ refused   └───────┴→ rolled-back

Each step is saved before its effect begins, so whoever starts next knows what was under way. `driver.py` runs it.
"""

from typing import Final, Literal, get_args

from distillnet.device.update.errors import UpdateError
from distillnet.device.update.record import HISTORY, Installed, Outcome, Past, Record, Trigger, Update
from distillnet.proto.mqtt import ShadowPayload, UpdatePhase

MAX_TRANSITIONS: Final = 48
MAX_REASON: Final = 500
ENDS: Final[frozenset[UpdatePhase]] = frozenset({"idle", "committed", "rolled-back", "refused"})
ON_TRIAL: Final[frozenset[UpdatePhase]] = frozenset({"switched", "probation"})

NEXT: Final[dict[UpdatePhase, frozenset[UpdatePhase]]] = {
    "idle": frozenset({"fetching"}),
    "fetching": frozenset({"fetching", "verifying", "refused"}),
    "verifying": frozenset({"verifying", "self-test", "refused"}),
    "self-test": frozenset({"verifying", "shadow", "switched", "refused"}),
    "shadow": frozenset({"verifying", "switched", "refused"}),
    "switched": frozenset({"switched", "probation", "rolled-back"}),
    "probation": frozenset({"switched", "committed", "rolled-back"}),
    "committed": frozenset({"fetching"}),
    "rolled-back": frozenset({"fetching"}),
    "refused": frozenset({"fetching"}),
}
assert set(NEXT) == set(get_args(UpdatePhase))


class TransitionError(UpdateError):
    """The machine was asked for a step it does not have: a programming error, never a board's state."""


def begin(record: Record, wanted: Update, now: float) -> Record:
    """Start an update. Whatever was on trial must have ended."""
    fresh = wanted.model_copy(
        update={
            "phase": record.update.phase,
            "transitions": 0,
            "restarts": 0,
            "result": "none",
            "reason": "",
            "durations_ms": {},
            "shadow": None,
            "started_ts": now,
        }
    )
    if record.update.phase not in ENDS:
        raise TransitionError(f"an update is under way ({record.update.phase})")
    return step(record.model_copy(update={"update": fresh}), "fetching")


def step(record: Record, phase: UpdatePhase, *, candidate: Installed | None = None) -> Record:
    """Go to `phase`; `candidate` fills that slot.

    Raises:
        TransitionError: there is no such step, or the update goes round in circles.

    """
    update = record.update
    if phase not in NEXT[update.phase]:
        raise TransitionError(f"no step from {update.phase} to {phase}")
    if update.transitions >= MAX_TRANSITIONS and phase not in ENDS:
        raise TransitionError(f"more than {MAX_TRANSITIONS} steps in one update")
    slots = record.slots if candidate is None else record.slots.model_copy(update={"candidate": candidate})
    advanced = update.model_copy(update={"phase": phase, "transitions": update.transitions + 1})
    return record.model_copy(update={"update": advanced, "slots": slots})


def timed(record: Record, phase: UpdatePhase, duration_ms: float) -> Record:
    """Note how long a phase took; a phase interrupted and resumed counts its parts together."""
    durations = dict(record.update.durations_ms)
    durations[phase] = round(durations.get(phase, 0.0) + duration_ms, 3)
    return record.model_copy(update={"update": record.update.model_copy(update={"durations_ms": durations})})


def shadowed(record: Record, seen: ShadowPayload) -> Record:
    """Note what the shadow run measured."""
    return record.model_copy(update={"update": record.update.model_copy(update={"shadow": seen})})


def commit(record: Record, now: float) -> Record:
    """Make the candidate the current student; the current one becomes the previous."""
    candidate = record.slots.candidate
    if candidate is None:
        raise TransitionError("nothing is on trial")
    slots = record.slots.model_copy(
        update={"current": candidate, "previous": record.slots.current, "candidate": None},
    )
    return _end(step(record, "committed").model_copy(update={"slots": slots}), "committed", "", True, now)


def roll_back(record: Record, reason: str, now: float) -> Record:
    """Give up the student on trial; the current one stays."""
    return _give_up(record, "rolled-back", reason, True, now)


def refuse(record: Record, reason: str, now: float, *, final: bool) -> Record:
    """Give up before the switch; `final` = do not try this digest again unasked."""
    return _give_up(record, "refused", reason, final, now)


def swap_back(record: Record, directive: str, reason: str, trigger: Trigger, now: float) -> Record:
    """Exchange current and previous: a rollback somebody asked for. The student left is not retaken unasked."""
    left, to = record.slots.current, record.slots.previous
    if to is None or left is None:
        raise TransitionError("there is no previous student")
    slots = record.slots.model_copy(update={"current": to, "previous": left, "candidate": None})
    update = Update(
        phase="rolled-back",
        directive=directive,
        trigger=trigger,
        application=to.application,
        version=to.version,
        digest=to.digest,
        result="rolled-back",
        reason=reason[:MAX_REASON],
        started_ts=now,
    )
    left_behind = _past(left, "", "rolled-back", reason, True, now)
    answer = _past(to, directive, "rolled-back", reason, False, now)
    history = [*record.history, left_behind, answer][-HISTORY:]
    return record.model_copy(update={"slots": slots, "update": update, "history": history})


def settled(
    record: Record,
    directive: str,
    student: Installed,
    result: Literal["rolled-back", "refused"],
    reason: str,
    now: float,
) -> Record:
    """Answer a directive that changes nothing: `student` runs, as it did before."""
    update = Update(
        phase=result,
        directive=directive,
        trigger="directive",
        application=student.application,
        version=student.version,
        digest=student.digest,
        result=result,
        reason=reason[:MAX_REASON],
        started_ts=now,
    )
    past = _past(student, directive, result, reason, False, now)
    return record.model_copy(update={"update": update, "history": [*record.history, past][-HISTORY:]})


def started(record: Record, max_crashes: int, now: float) -> Record:
    """Take note of a start of the daemon: an update it died of too often is given up.

    A clean stop does not count. Downloads may be interrupted as often as it pleases the network.
    """
    update = record.update
    running = record.model_copy(update={"clean_stop": False})
    if record.clean_stop or update.phase in ENDS or update.phase == "fetching":
        return running
    restarts = update.restarts + 1
    counted = running.model_copy(update={"update": update.model_copy(update={"restarts": restarts})})
    if restarts < max_crashes:
        return counted
    reason = f"the daemon died {restarts} times in {update.phase}"
    if update.phase in ON_TRIAL:
        return roll_back(counted, reason, now)
    return refuse(counted, reason, now, final=True)


def _give_up(record: Record, result: Outcome, reason: str, final: bool, now: float) -> Record:
    phase: UpdatePhase = "rolled-back" if result == "rolled-back" else "refused"
    slots = record.slots.model_copy(update={"candidate": None})
    return _end(step(record, phase).model_copy(update={"slots": slots}), result, reason, final, now)


def _end(record: Record, result: Outcome, reason: str, final: bool, now: float) -> Record:
    update = record.update.model_copy(update={"result": result, "reason": reason[:MAX_REASON]})
    ended = Installed(application=update.application, version=update.version, digest=update.digest)
    history = [*record.history, _past(ended, update.directive, result, reason, final, now)][-HISTORY:]
    return record.model_copy(update={"update": update, "history": history})


def _past(student: Installed, directive: str, result: Outcome, reason: str, final: bool, now: float) -> Past:
    return Past(
        directive=directive,
        application=student.application,
        version=student.version,
        digest=student.digest,
        result=result,
        reason=reason[:MAX_REASON],
        final=final,
        ts=now,
    )
