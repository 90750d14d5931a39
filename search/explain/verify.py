"""Derive every proposal and every decision of a study again, from its record alone.

A search decides from its configuration, its seed and what was told to it, in order: the events.
Told again to a new strategy on a study in memory, they must lead to what the record holds. No Ray,
no training; the study is only read, also while it runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast

from optuna.trial import TrialState

from search.drive.chapters import extend_strategy, first_strategy
from search.drive.restore import Ending, ending, is_of_budget, score
from search.explain.verdict import Difference, Verification, compared, differing
from search.machine.environment import describe_environment
from search.machine.slots import CHECKOUT
from search.propose.fidelity_sampler import BASIS, UNTRAINABLE
from search.prune.asha import LAST_STRETCH
from search.prune.ladder import Decision
from search.record.dataset import image_shape
from search.record.extension import Extension, taken_back
from search.record.lineage import NOTED, as_stored, digest
from search.record.record import EventRow
from search.record.study import Outcome, Study, trial_name

_PROPOSED = ("origin", "configuration", "key", "parameters", "multiply_adds", "refusal", BASIS)
"""Trial attributes that come with a proposal. How long it took is not derived."""
_TOLD = ("reason", "failure", "infeasible", UNTRAINABLE)
"""Trial attributes that come with an end."""
_CONDITIONS = ("python", "numpy", "scipy", "optuna", "processor", "commit")
"""Of the noted environment: what the numbers of a proposal depend on."""


def verify(study: Study) -> Verification:
    """Derive all again, up to the first difference.

    Raises:
        StudyError: The record does not say what the images look like.
    """
    noted, now = study.noted("environment") or {}, describe_environment(CHECKOUT)
    result = Verification(
        study=study.name,
        conditions={
            key: (noted.get(key, ""), now[key]) for key in _CONDITIONS if noted.get(key) != now[key]
        },
    )
    result.difference = next(_Walk(study, result).differences(), None)
    return result


class _Walk:
    """One pass over the events: the strategy stands where the driver's stood at each of them."""

    def __init__(self, study: Study, result: Verification) -> None:
        config, shape = study.config, image_shape(study)
        self._result, self._config, self._shape = result, config, shape
        # The study may go on meanwhile, so the order matters: what is read has its events among
        # those read after it, and a trial that has ended here does not change any more.
        trials = study.optuna.get_trials(deepcopy=False)
        self._over = {trial.number for trial in trials if trial.state.is_finished()}
        self._rows: dict[int, dict[int, float | None]] = defaultdict(dict)
        for row in study.record.epochs():
            self._rows[row.trial][row.epoch] = score(row)
        self._stored = study.optuna.get_trials(deepcopy=False)
        self._events = study.record.events()
        self._taken_back = taken_back(self._events)
        self._decisions: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for decision in study.record.decisions():
            self._decisions[decision["event"]].append(decision)
        self._lineage = study.noted(NOTED) or {}
        self._inherited = as_stored(study) if self._lineage else []
        self._strategy = first_strategy(config, shape, study.extensions, self._inherited)
        self._study = self._strategy.study
        self._told: dict[int, dict[int, list[float | None]]] = {}
        """Of every trial: epoch -> the values told; the last one counts."""
        self._due: dict[int, Ending | None] = {}
        """Of every trial that goes on: how it must end before anything else, or None."""

    def differences(self) -> Iterator[Difference]:
        """Yield what is not as derived. What comes after the first one means nothing."""
        steps: dict[str, Callable[[EventRow], Iterator[Difference]]] = {
            "proposed": self._proposed,
            "promoted": self._promoted,
            "epoch": self._epoch,
            "ended": self._ended,
            "reopened": self._reopened,
            "extended": self._extended,
        }
        if self._lineage and digest(self._inherited) != (noted := self._lineage.get("digest")):
            what = f"the digest of the trials of {self._lineage.get('parent')}"
            yield Difference(
                trial="what it inherited",
                event=None,
                what=what,
                stored=noted,
                derived=digest(self._inherited),
            )
        last = 0
        for event in self._events:
            if event.kind == "proposed" and event.trial >= len(self._stored):
                break  # came while the record was read
            if event.kind not in ("proposed", "extended") and event.trial not in self._due:
                why = "it has ended" if event.trial in self._told else "it was not proposed"
                yield differing(event, "what happened", event.kind, f"nothing: {why}")
            yield from steps[event.kind](event)
            last = event.id
        for event_id, (row, *_) in self._decisions.items():
            if event_id <= last:
                name, what = trial_name(row["trial"]), f"a decision on event {event_id}"
                yield Difference(
                    trial=name, event=None, what=what, stored=row["action"], derived=None
                )
        for trial in self._due:
            yield from self._copies(trial, None)
            if trial in self._over:  # Optuna is told after the event
                state = self._stored[trial].state.name
                yield Difference(
                    trial=trial_name(trial),
                    event=None,
                    what="the state",
                    stored=state,
                    derived=TrialState.RUNNING.name,
                )

    def _proposed(self, event: EventRow) -> Iterator[Difference]:
        if (promotion := self._strategy.next_promotion()) is not None:
            due = f"the promotion of {trial_name(promotion.trial)}"
            yield differing(event, "what happened", "a new proposal", due)
        number = self._strategy.propose().number
        yield from compared(event, "the proposal: number", event.trial, number)
        stored, derived = self._stored[number], self._study.get_trials(deepcopy=False)[number]
        yield from compared(event, "the proposal", stored.params, derived.params)
        noted, wanted = (
            {name: trial.user_attrs.get(name) for name in _PROPOSED} for trial in (stored, derived)
        )
        yield from compared(event, "the proposal", noted, wanted)
        refusal = derived.user_attrs.get("refusal", "")
        self._told[number] = {}
        self._due[number] = Ending(outcome="infeasible", reason=refusal) if refusal else None
        self._result.proposals += 1

    def _promoted(self, event: EventRow) -> Iterator[Difference]:
        rows = self._decisions.get(event.id, [])
        # That the budget's end is near depends on clocks: it is told, not derived.
        last_stretch = any(row["reason"].endswith(LAST_STRETCH) for row in rows)
        promotion = self._strategy.next_promotion(last_stretch=last_stretch)
        yield from self._decided(event, "the promotion", promotion)
        self._strategy.promote(event.trial)

    def _epoch(self, event: EventRow) -> Iterator[Difference]:
        trial, epoch, value = event.trial, event.epoch or 0, event.value
        if (due := self._due[trial]) is not None:
            end = f"its end as {due.outcome}: {due.reason}"
            yield differing(event, "what happened", f"epoch {epoch}", end)
        if trial in self._strategy.paused:
            yield differing(event, "what happened", f"epoch {epoch}", "a pause until a promotion")
        decision = None if value is None else self._strategy.judge(trial, epoch, value)
        yield from self._decided(event, f"the decision on epoch {epoch}", decision)
        self._told[trial].setdefault(epoch, []).append(value)
        stopped = decision.reason if decision is not None and decision.action == "stop" else ""
        whole = int(self._stored[trial].user_attrs["configuration"]["training"]["epochs"])
        self._due[trial] = ending(epoch, value, stopped, max_epochs=whole)

    def _ended(self, event: EventRow) -> Iterator[Difference]:
        trial, outcome, reason = event.trial, event.outcome or "", event.reason or ""
        due = self._due[trial]
        if due is None and trial in self._strategy.paused:
            due = Ending(outcome="pruned", reason=self._strategy.standing(trial))
        if due is not None:
            yield from compared(event, "the end: outcome", outcome, due.outcome)
            # What its worker had to do otherwise than asked is added in brackets.
            if reason != due.reason and not reason.startswith(f"{due.reason} ("):
                yield differing(event, "the end: reason", reason, due.reason)
        elif not event.failure and not is_of_budget(outcome, reason):
            yield differing(event, "what happened", f"its end as {outcome}", "a further epoch")
        if event.id in self._taken_back:
            return  # as if it had not been
        del self._due[trial]
        value = None
        if outcome == "complete":
            value = max(told[-1] for told in self._told[trial].values() if told[-1] is not None)
        derived = self._study.get_trials(deepcopy=False)[trial]
        end = Ending(outcome=cast(Outcome, outcome), reason=reason, failure=event.failure or "")
        facts = end.facts(derived.user_attrs.get("refusal", ""))
        self._strategy.end(trial, end.state, value, facts)
        yield from self._copies(trial, event)
        if trial in self._over:
            stored, derived = self._stored[trial], self._study.get_trials(deepcopy=False)[trial]
            yield from compared(event, "the state", stored.state.name, derived.state.name)
            yield from compared(event, "the value", stored.values, derived.values)
            noted, told = (
                {name: attrs.get(name) for name in _TOLD} for attrs in (stored.user_attrs, facts)
            )
            yield from compared(event, "the end", noted, told)
        self._result.ends += 1

    def _reopened(self, event: EventRow) -> Iterator[Difference]:
        if self._due[event.trial] is not None:
            yield differing(event, "what happened", "it was reopened", "it stays ended")

    def _extended(self, event: EventRow) -> Iterator[Difference]:
        extend_strategy(self._strategy, Extension.of_event(event), self._config, self._shape)
        yield from ()

    def _decided(
        self, event: EventRow, what: str, decision: Decision | None
    ) -> Iterator[Difference]:
        derived = None
        if decision is not None:
            derived = asdict(decision) | {"epoch": event.epoch or decision.rung}
        rows = self._decisions.pop(event.id, [])
        stored = (
            {k: v for k, v in rows[0].items() if k not in ("id", "event", "at")} if rows else None
        )
        if stored is None or derived is None:
            pair = (
                "none" if d is None else f"{d['action']}: {d['reason']}" for d in (stored, derived)
            )
            yield from compared(event, what, *pair)
        yield from compared(event, what, stored, derived)
        if len(rows) > 1:
            yield differing(event, what, f"{len(rows)} of them", "one")
        self._result.decisions += decision is not None

    def _copies(self, trial: int, end: EventRow | None) -> Iterator[Difference]:
        """Compare what was told of a trial with the other places of the record that hold it.

        `end` is None where the trial goes on: then a place may lack the last value.
        """
        told, stored = self._told[trial], self._stored[trial]
        over = end is not None and trial in self._over
        event = None if end is None else end.id
        for what, copies in (
            ("the table of epochs", self._rows[trial]),
            ("Optuna's intermediate values", stored.intermediate_values),
        ):
            wanted = {epoch: values[-1] for epoch, values in told.items()}
            for epoch in sorted({*wanted, *copies}):
                here, known = copies.get(epoch), told.get(epoch, [None])
                # Of a trial that goes on, an epoch may have been trained again just now.
                if here != known[-1] if over else epoch in copies and here not in known:
                    yield Difference(
                        trial=trial_name(trial),
                        event=event,
                        what=f"{what}: epoch {epoch}",
                        stored=here,
                        derived=known[-1],
                    )
