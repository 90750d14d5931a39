"""Is the record of a study in order?

Its events count: what other tables have to say of the same is compared with them. What a killed
driver left undone is completed by the next one, when it takes over (`search.drive.restore`); here
that happens without a search.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, get_args

from model.config import Configuration
from search.care.diagnosis import RECORD_BACK, Cure, Found, IncurableError
from search.drive.restore import certain_end, score, stop_reasons
from search.propose.ledger import Ledger
from search.record.dataset import image_shape
from search.record.lineage import NOTED, as_stored, digest, is_there
from search.record.record import EventKind
from search.record.study import UNSEARCHED, State, Study, StudyError, Trial, trial_name
from search.words import one_line

"""States in which a search goes on when the study is resumed."""


class RecordCheck:
    """The record of one study as it was read, and what is wrong with it."""

    def __init__(self, study: Study) -> None:
        """Read it. What is read first has its events among those read after: it may go on."""
        self._study, record = study, study.record
        self._attempts: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for attempt in record.attempts():
            self._attempts[attempt["trial"]].append(attempt)
        self._decisions = record.decisions()
        self._rows = {(row.trial, row.epoch): row for row in record.epochs()}
        self._events = record.events()
        self._made: list[Any] = study.optuna.get_trials(deepcopy=False)
        self._last: dict[int, str] = {}
        """Of every trial with events: the kind of the last one, `ended` only if that holds."""
        self.damage = tuple(self._damage())
        """What no driver leaves behind, however it ends. It cannot be mended."""
        self.open: dict[int, Trial] = {}
        """Trials that can go on; none where there is damage."""
        self._trials: list[Trial] = []
        self._certain: set[int] = set()
        if not self.damage:
            self._trials, stops = study.trials(), stop_reasons(study)
            for trial in self._trials:
                if self._last.get(trial.number) == "ended":
                    continue
                if certain_end(trial, stops) is None:
                    self.open[trial.number] = trial
                else:
                    self._certain.add(trial.number)

    def findings(self) -> Iterator[Found]:
        """Yield what is wrong, where nobody works on the study."""
        for what in self.damage:
            yield Found(what=what, how=RECORD_BACK)
        yield from self._gaps()
        yield from self._sessions()
        if not self.damage:  # or a driver would build on it
            yield from self._undone()
            yield from self._state()

    def _damage(self) -> Iterator[str]:
        numbers = [frozen.number for frozen in self._made]
        if numbers != list(range(len(numbers))):
            yield f"of Optuna's trials, {trial_name(_first_gap(numbers))} is missing"
        for frozen in self._made:
            noted, name = frozen.user_attrs, trial_name(frozen.number)
            if frozen.state.name == "WAITING":
                yield f"{name} waits in Optuna's tables: another program has put it there"
            elif not noted.get("refusal") and (why := _why_untrainable(noted)):
                yield f"{name} has no configuration in Optuna's tables that can be trained: {why}"
        if lost := _why_not_inherited(self._study):
            yield lost
        yield from self._disorder(set(numbers))
        yield from self._unproposed(numbers)
        yield from self._contradictions()

    def _disorder(self, numbers: set[int]) -> Iterator[str]:
        for event in self._events:
            name, said = trial_name(event.trial), f"event {event.id} ({one_line(event.kind)})"
            last = self._last.get(event.trial)
            if event.kind == "extended":
                continue
            if event.kind not in get_args(EventKind):
                yield f"{said} is of no kind that is known"
            elif event.trial not in numbers:
                yield f"{said} is of {name}, which is not among Optuna's trials"
            elif event.kind == "proposed" and last is not None:
                yield f"{name} is proposed again by {said}"
            elif event.kind != "proposed" and last is None:
                yield f"{name} has {said} before its proposal"
            elif event.kind == "reopened" and last != "ended":
                yield f"{name} is taken up again by {said}, but had not ended"
            elif event.kind not in ("proposed", "reopened") and last == "ended":
                yield f"{name} had ended before {said}"
            self._last[event.trial] = event.kind

    def _unproposed(self, numbers: list[int]) -> Iterator[str]:
        # Optuna numbers a trial before the event is written: the newest may lack it.
        latest = max(self._last, default=-1)
        for number in numbers:
            if number not in self._last and number < latest:
                yield f"{trial_name(number)} has no event at all, but later trials have"

    def _contradictions(self) -> Iterator[str]:
        events = {event.id: event for event in self._events}
        decided = set()
        for row in self._decisions:
            decided.add(row["event"])
            event = events.get(row["event"])
            if event is None or event.trial != row["trial"]:
                at = f"event {row['event']}, which is not there"
                at = at if event is None else f"event {event.id}, which is of another trial"
                yield f"{trial_name(row['trial'])} has a decision on {at}"
        told: dict[tuple[int, int], float | None] = {}
        for event in self._events:
            if event.kind == "epoch":
                told[event.trial, event.epoch or 0] = event.value
            elif event.kind == "promoted" and event.id not in decided:
                name = trial_name(event.trial)
                yield f"{name} is promoted by event {event.id} without a decision"
        for trial, epoch in sorted({*told, *self._rows}):
            place, known = f"{trial_name(trial)}, epoch {epoch}:", self._rows.get((trial, epoch))
            if known is None:
                yield f"{place} it is among the events, but not in the table of epochs"
            elif (trial, epoch) not in told:
                yield f"{place} it is in the table of epochs, but not among the events"
            elif score(known) != (value := told[trial, epoch]):
                yield f"{place} the events say {value}, the table of epochs {score(known)}"

    def _gaps(self) -> Iterator[Found]:
        how = f"the search can go on without, but its device time is not counted; or {RECORD_BACK}"
        for trial, attempts in self._attempts.items():
            numbers = [attempt["attempt"] for attempt in attempts]
            if numbers != list(range(1, len(numbers) + 1)):
                gap = _first_gap([0, *numbers])
                yield Found(what=f"{trial_name(trial)}: attempt {gap} is missing", how=how)

    def _sessions(self) -> Iterator[Found]:
        sessions = self._study.sessions
        for row in sessions.all():
            if row["ended_at"] is None:
                who = f"process {row['pid']} on {row['host']}"
                yield Found(
                    what=f"session {row['id']} ({row['stage']}, {who}) was left open",
                    how="it ends where it was last seen",
                    cure=partial(sessions.close, row["id"]),
                )

    def _undone(self) -> Iterator[Found]:
        """Yield what the next driver makes up for, with one cure for all."""
        stale: set[int] = set()
        cure = partial(_take_over, self._study, stale)
        for number, attempts in self._attempts.items():
            for row in attempts:
                if row["ended_at"] is None:
                    what = f"{trial_name(number)}: attempt {row['attempt']} has no end"
                    how = "it ends as stopped, where its driver was last seen"
                    yield Found(what=what, how=how, cure=cure)
        for trial in self._trials:
            if trial.number not in self._last:
                what = f"{trial.name} has no event that says it was proposed"
                yield Found(what=what, how="the event is written", cure=cure)
            if trial.number in self._certain:
                what = f"{trial.name} has come to its end, but the events do not say so"
                yield Found(what=what, how="it ends as the record says", cure=cure)
        yield from self._copies(stale, cure)

    def _copies(self, stale: set[int], cure: Cure) -> Iterator[Found]:
        """Yield where Optuna's tables, a copy for readers, are not as the events have it.

        Trials that have to be told anew, though they have ended there, are added to `stale`.
        """
        ends = {event.trial: event for event in self._events if event.kind == "ended"}
        for trial in self._trials:
            over = self._last.get(trial.number) == "ended"
            outcome = ends[trial.number].outcome if over else "running"
            if outcome != trial.outcome:
                ours, theirs = (_stands(word) for word in (str(outcome), trial.outcome))
                what = f"{trial.name} {ours} by the events, but {theirs} in Optuna's tables"
                yield Found(
                    what=what, how="Optuna's tables are told what the events say", cure=cure
                )
                if trial.outcome != "running":
                    stale.add(trial.number)
            values = {row.epoch: value for row in trial.epochs if (value := score(row)) is not None}
            stored = self._made[trial.number].intermediate_values
            if wrong := sorted(epoch for epoch in values if stored.get(epoch) != values[epoch]):
                what = f"{trial.name}: Optuna's tables do not have the value of epoch {wrong[0]}"
                yield Found(what=what, how="they are told of it", cure=cure)
                if trial.outcome != "running":
                    stale.add(trial.number)
            if odd := sorted(stored.keys() - values.keys()):
                what = f"{trial.name}: Optuna's tables have a value of epoch {odd[0]}, we have none"
                yield Found(what=what, how="only those who read Optuna's tables see it: leave it")

    def _state(self) -> Iterator[Found]:
        state, going = self._study.noted("state"), [trial_name(n) for n in self.open]
        what = ""
        if state == "searching":
            what = "the study is `searching`, but nobody searches"
        elif state not in get_args(State):
            what = f"the study is {one_line(repr(state))}, which is no state"
        elif state not in UNSEARCHED and going:
            what = f"the study is `{state}`, but {', '.join(going[:3])} can go on"
        if what:
            how = "it is `stopped`, and resume goes on with it"
            yield Found(what=what, how=how, cure=partial(self._study.set_state, "stopped"))


def _take_over(study: Study, stale: set[int]) -> None:
    """Do what the next driver does first; let it tell Optuna anew of the trials in `stale`.

    Raises:
        IncurableError: The record contradicts itself in a way that was not looked for.
    """
    from search.drive.driver import Driver

    try:
        shape = image_shape(study)
        ledger = Ledger(study.optuna)
        for trial in sorted(stale):
            ledger.reopen(trial)
        Driver(study, shape=shape, slots=1)
    except (AssertionError, LookupError, TypeError, ValueError, StudyError) as error:
        why = one_line(f"{type(error).__name__}: {error}")
        raise IncurableError(f"no driver can take over ({why}); {RECORD_BACK}") from None


def _why_not_inherited(study: Study) -> str:
    """Return what is wrong with the trials that a study has of its parent, or an empty string."""
    facts, there = study.noted(NOTED), is_there(study)
    if facts is None and not there:
        return ""
    if facts is not None and not isinstance(facts, Mapping):
        return f"what is noted of the parent is {one_line(repr(facts))}"
    whose = f"the trials of {(facts or {}).get('parent')}, which the study was begun with,"
    if not there:
        return f"{whose} are gone: the database has no table fs_inherited"
    try:
        stored = as_stored(study)
    except (StudyError, AttributeError):
        return f"{whose} cannot be read"
    if facts is None:
        return "trials of an earlier study are there, but not whose they are" if stored else ""
    if digest(stored) != facts.get("digest"):
        return f"{whose} are not what was written: their digest differs"
    return ""


def _stands(outcome: str) -> str:
    return "runs" if outcome == "running" else f"has ended as {outcome}"


def _why_untrainable(noted: Mapping[str, Any]) -> str:
    try:
        Configuration.from_dict(noted["configuration"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return one_line(f"{type(error).__name__}: {error}")
    return ""


def _first_gap(numbers: list[int]) -> int:
    there = set(numbers)
    return next(number for number in range(len(numbers) + 1) if number not in there)
