"""What is known of a search while it runs: read from the record, kept up to date by events.

`search.screen.screen` draws it. No heavy imports: a command that shows a study should answer at
once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from search.prune.budget import Budget, Use, worth
from search.record.lock import is_alive
from search.words import data_caution, data_line

if TYPE_CHECKING:
    from model.train import EpochMetrics
    from search.prune.ladder import Action, Decision
    from search.record.study import Outcome, Study, Trial

BASELINE = "baseline "  # how the origin of a baseline's trial begins


@dataclass(frozen=True, kw_only=True, slots=True)
class RungRow:
    """How many trials have got to one rung, and what became of them there."""

    bracket: int
    rung: int
    """In epochs."""
    reached: int
    """All that follow."""
    went_on: int
    """By their value or by a promotion, also those that the budget or a failure ended here."""
    paused: int
    """Wait here for a promotion."""
    stopped: int
    """By ASHA; in the promotion form: ended without a promotion."""
    audited: int
    """Would have been stopped here, and run on."""


@dataclass(kw_only=True, slots=True)
class View:
    """The trials of a study, and who trains which of them. Drawing it needs no record."""

    study: Study
    trials: dict[int, Trial]
    """Every trial that was handed out or refused, by number."""
    ended: list[int]
    """The trials that have ended, in order; those refused untrained are not among them."""
    chances: list[tuple[int, float | None]]
    """Trial and value of every pause and every end, in order: what the plateau counts."""
    rungs: dict[tuple[int, int], dict[int, Action]]
    """Bracket and rung, in epochs -> trial -> what was decided on it there last."""
    paused: set[int]
    """Trials that wait at a rung for promotion."""
    slots: list[int | None]
    """The trial of each slot; None where it is idle."""
    held: float
    """Seconds that attempts held a slot which are over."""
    begun: dict[int, float]
    """Trial -> Unix time at which its attempt began, for those on a slot."""
    share: float
    """CPU cores of a slot, or its GPUs where trials use GPUs."""
    bounds: list[float]
    """Every regret bound so far, in validation accuracy as a fraction."""
    spent: float
    """Seconds searched before `since`."""
    since: float | None
    """Unix time from which the search goes on; None where nobody searches."""
    data: str
    """Which images are used."""
    caution: str
    """What must be known about them before any number; empty where nothing must."""
    train_images: int
    """Images of one epoch."""
    _share_is_read: bool = field(default=False, compare=False)
    _leader: Trial | None = field(default=None, compare=False)
    """The best trial; None where it has to be looked for."""

    @classmethod
    def of(cls, study: Study) -> View:
        """Read everything from the study's record."""
        from search.record.extension import taken_back

        record, sessions = study.record, study.sessions.all()
        decisions = record.decisions()
        trials = {t.number: t for t in study.trials()}
        attempts = [a for a in record.attempts() if a["trial"] in trials]
        tried = {a["trial"] for a in attempts if trials[a["trial"]].outcome != "running"}
        events = record.events()
        back = taken_back(events)
        events = [event for event in events if event.id not in back]
        ended = [e.trial for e in events if e.kind == "ended" and e.trial in tried]
        alive = study.state == "searching" and is_alive(study)
        seen = max((s["seen_at"] for s in sessions if s["stage"] == "search"), default=0.0)
        begun: dict[int, float] = {}
        held = 0.0
        for row in attempts:
            trial, at, end = row["trial"], row["started_at"], row["ended_at"]
            if end is None and alive and trial not in tried:
                begun[trial] = at
            else:  # one that a killed driver left open was seen last when the driver was
                held += (end or max(seen, at)) - at
        decisions = [row for row in decisions if row["trial"] in trials]
        rungs, paused = _decided(study, decisions)
        chances = {
            row["event"]: (row["trial"], row["value"])
            for row in decisions
            if row["action"] == "pause"
        }
        chances |= {
            e.id: (e.trial, worth(trials[e.trial].outcome, trials[e.trial].value))
            for e in events
            if e.kind == "ended" and e.trial in trials
        }
        return cls(
            study=study,
            trials=trials,
            ended=ended,
            chances=[chance for _, chance in sorted(chances.items())],
            rungs=rungs,
            paused={n for n in paused if trials[n].outcome == "running" and n not in begun},
            slots=[*sorted(begun)],
            held=held,
            begun=begun,
            share=study.noted("share") or 1.0,
            bounds=_bounds(study),
            spent=study.sessions.spent_seconds("search"),
            since=sessions[-1]["seen_at"] if alive else None,
            data=data_line(study),
            caution=data_caution(study),
            train_images=(study.noted("data") or {}).get("train_images") or 0,
        )

    def start(self, trial: Trial, at: float) -> None:
        """Put a trial that was handed out at Unix time `at` on the first idle slot."""
        number = trial.number
        self._put(trial)
        if not self._share_is_read:  # it is written when the search begins
            self.share, self._share_is_read = self.study.noted("share") or 1.0, True
        self._leave(number, at)  # handed out again: its worker was lost
        self.begun[number] = at
        if number in self.paused:
            self.paused.remove(number)
            for there in self.rungs.values():
                if there.get(number) == "pause":
                    there[number] = "promote"
        if number in self.slots:
            return
        if None not in self.slots:
            self.slots.append(None)
        self.slots[self.slots.index(None)] = number

    def add_epoch(
        self, number: int, metrics: EpochMetrics, decision: Decision | None, at: float
    ) -> None:
        """Add an epoch, trained at Unix time `at`, and what was decided on it."""
        from search.record.record import EpochRow

        values: dict[str, Any] = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(metrics).items()
        }
        trial = self.trials[number]
        rows = {row.epoch: row for row in trial.epochs}
        rows[metrics.epoch] = EpochRow(trial=number, attempt=0, at=at, **values)
        self._put(replace(trial, epochs=tuple(rows[key] for key in sorted(rows))))
        if decision is None:
            return
        self.rungs.setdefault((decision.bracket, decision.rung), {})[number] = decision.action
        if decision.action == "pause":
            self.chances.append((number, decision.value))
            self.paused.add(number)
            self.free(number, at)

    def end(self, number: int, outcome: Outcome, reason: str, at: float) -> None:
        """End a trial at Unix time `at` and free its slot."""
        self._put(replace(self.trials[number], outcome=outcome, reason=reason))
        self.ended.append(number)
        self.chances.append((number, worth(outcome, self.trials[number].value)))
        self.paused.discard(number)
        self.free(number, at)
        if self.study.config.budget.regret_bound is not None:
            self.bounds = _bounds(self.study)

    def free(self, number: int, at: float) -> None:
        """Free the slot of a trial that leaves it at Unix time `at`, for now or for ever."""
        self._leave(number, at)
        self.slots = [None if trial == number else trial for trial in self.slots]

    def _put(self, trial: Trial) -> None:
        # Who is the best is asked at every end: not by comparing all there are.
        self.trials[trial.number] = trial
        if self._leader is None or trial.number == self._leader.number:
            self._leader = None
        elif trial.can_win and trial.merit < self._leader.merit:
            self._leader = trial

    def _leave(self, number: int, at: float) -> None:
        self.held += max(0.0, at - self.begun.pop(number, at))

    def budget(self, now: float) -> tuple[Use, ...]:
        """Return how far each limit is used at Unix time `now`, as the driver counts it."""
        budget, seconds = Budget(self.study.config.budget, share=self.share), self.seconds(now)
        for _ in range(self.num_asked):
            budget.trial_begun()
        for _ in range(self.num_epochs):
            budget.epoch()
        budget.device_seconds(self.held)
        for number, at in self.begun.items():
            budget.attempt_begun(number, seconds - max(0.0, now - at))
        for number, value in self.chances:
            budget.trial_ended(value, trial=number)
        for bound in self.bounds:
            budget.regret(bound)
        return budget.uses(seconds)

    def best(self) -> Trial | None:
        """Return the best trial so far, as `search.record.study.best_of` has it."""
        if self._leader is None:
            from search.record.study import best_of

            self._leader = best_of(list(self.trials.values()))
        return self._leader

    def baselines(self) -> dict[str, Trial]:
        """Return the trials of the baselines by name."""
        found = [t for t in self.trials.values() if t.origin.startswith(BASELINE)]
        return {trial.origin.removeprefix(BASELINE): trial for trial in found}

    def rung_rows(self) -> list[RungRow]:
        """Return every rung, by bracket."""
        rows = []
        for (bracket, rung), there in sorted(self.rungs.items()):
            waiting = [n for n, action in there.items() if action == "pause" and n in self.paused]
            halted = sum(action in ("stop", "pause") for action in there.values()) - len(waiting)
            audited = sum(action == "audit" for action in there.values())
            rows.append(
                RungRow(
                    bracket=bracket,
                    rung=rung,
                    reached=len(there),
                    went_on=len(there) - len(waiting) - halted - audited,
                    paused=len(waiting),
                    stopped=halted,
                    audited=audited,
                )
            )
        return rows

    def seconds(self, now: float) -> float:
        """Return the wall seconds searched, over all sessions, at Unix time `now`."""
        return self.spent + (0.0 if self.since is None else max(0.0, now - self.since))

    @property
    def num_asked(self) -> int:
        """Return the trials that count against the budget: all but those refused untrained."""
        return sum(not trial.refusal for trial in self.trials.values())

    @property
    def num_epochs(self) -> int:
        """Return the epochs trained by all trials together."""
        return sum(len(trial.epochs) for trial in self.trials.values())

    def count_outcomes(self) -> str:
        """Return how many trials there are of each kind, such as `2 running, 5 complete`."""
        found = Counter(str(trial.outcome) for trial in self.trials.values())
        busy, paused = sum(slot is not None for slot in self.slots), len(self.paused)
        kinds = {"running": busy, "paused": paused, "unfinished": found["running"] - busy - paused}
        kinds |= {kind: found[kind] for kind in ("complete", "pruned", "infeasible", "failed")}
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def _decided(
    study: Study, decisions: Sequence[Mapping[str, Any]]
) -> tuple[dict[tuple[int, int], dict[int, Action]], set[int]]:
    """Return `View.rungs`, and the trials whose last decision was to pause them."""
    from search.prune.settle import rungs_of

    rungs, last = rungs_of(study.config), dict[int, str]()
    brackets = max(1, min(study.config.asha.brackets, len(rungs)))
    found: dict[tuple[int, int], dict[int, Action]] = {
        (bracket, rung): {} for bracket in range(brackets) for rung in rungs[bracket:]
    }
    for row in decisions:
        found.setdefault((row["bracket"], row["rung"]), {})[row["trial"]] = row["action"]
        last[row["trial"]] = row["action"]
    return found, {trial for trial, action in last.items() if action == "pause"}


def _bounds(study: Study) -> list[float]:
    from search.prune.terminator import RegretBound

    return list(RegretBound(study.optuna, seed=study.config.seed).bounds.values())
