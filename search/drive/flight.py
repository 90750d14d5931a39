"""The trials in flight: those that hold a slot, and those that wait for one to go on.

Each time a trial holds a slot is one attempt in the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from model.config import Configuration
from model.train import EpochMetrics
from search.drive.patience import Patience
from search.propose.ledger import Ledger
from search.prune.assignment import Assignment
from search.prune.budget import Budget
from search.record.study import Study, Trial
from search.seeds import derive_seed
from search.words import span

_MOMENT = 15.0
"""Seconds after which a look for hung trials comes late."""


@dataclass(kw_only=True, slots=True)
class _Held:
    """A slot that is held."""

    attempt: int
    epochs: set[int]
    """Epochs that the trial has trained, over all attempts."""
    max_epochs: int
    multiply_adds: int
    seen_at: float
    """When it was handed out, or reported its last epoch; in seconds searched."""
    remark: str = ""
    slow: bool = False
    """Whether it has no GPU where others have."""


class Flight:
    """Trials on their slots."""

    def __init__(
        self,
        study: Study,
        budget: Budget,
        ledger: Ledger,
        *,
        slots: int,
        seconds: Callable[[], float],
    ) -> None:
        """Start with empty slots.

        Args:
            study: Whose attempts are recorded.
            budget: Is told of every attempt.
            ledger: For what workers remark.
            slots: How many trials may be in training at a time.
            seconds: Wall seconds searched so far.
        """
        self._study, self._budget, self._ledger = study, budget, ledger
        self._slots, self._seconds = slots, seconds
        self._held: dict[int, _Held] = {}
        self._waiting: list[int] = []
        self._alone: set[int] = set()
        self._looked_at = 0.0
        limit = study.config.resources.hang_seconds
        self.patience = Patience(None if limit == "auto" else limit)
        self._slow_patience = Patience(None if limit == "auto" else limit)

    def __contains__(self, trial: int) -> bool:
        return trial in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def waits(self) -> bool:
        """Whether a trial waits for a slot to go on."""
        return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether no slot can be taken: all are held, or one by a trial that must be alone."""
        return len(self._held) >= self._slots or bool(self._alone & self._held.keys())

    def resize(self, slots: int) -> None:
        """Have so many slots from now on."""
        self._slots = slots

    def slow_down(self, trial: int) -> None:
        """Expect no more of a trial than of others that have no GPU."""
        self._held[trial].slow = True

    def excuse(self, trial: int) -> None:
        """Count the silence of a trial from now on."""
        self._held[trial].seen_at = self._seconds()

    def go_on(self, trials: Iterable[int], alone: Iterable[int]) -> None:
        """Let trials of an earlier session wait for a slot; some need all the memory."""
        self._waiting.extend(trials)
        self._alone.update(alone)

    def wait(self, trial: int) -> None:
        """Let a trial wait for a slot."""
        self._waiting.append(trial)

    def keep_alone(self, trial: int) -> None:
        """Let a trial have a slot only while no other one is held: it needs all the memory."""
        self._alone.add(trial)

    def may_begin(self, trial: int) -> bool:
        """Return whether a trial may have one of the idle slots now."""
        return trial not in self._alone or not self._held

    def take_waiting(self) -> int | None:
        """Return the trial that goes on next, if it may now; it waits no longer."""
        return self._waiting.pop(0) if self.may_begin(self._waiting[0]) else None

    def give_up_waiting(self) -> Iterable[int]:
        """Return the trials that wait, one by one; none waits any more."""
        while self._waiting:
            yield self._waiting.pop(0)

    def begin(self, plan: Trial) -> Assignment:
        """Hand a trial to a slot: record the attempt, make its folder."""
        assert plan.configuration is not None
        last = plan.epochs[-1].epoch if plan.epochs else 0
        attempt = self._study.record.start_attempt(plan.number, from_epoch=last)
        self._budget.attempt_begun(plan.number, self._seconds())
        folder = self._study.trial_folder(plan.number)
        folder.mkdir(parents=True, exist_ok=True)
        self._held[plan.number] = _Held(
            attempt=attempt,
            epochs={row.epoch for row in plan.epochs},
            max_epochs=plan.max_epochs,
            multiply_adds=plan.multiply_adds or 1,
            seen_at=self._seconds(),
        )
        return Assignment(
            trial=plan.number,
            attempt=attempt,
            configuration=Configuration.from_dict(plan.configuration),
            seed=derive_seed(self._study.config.seed, "trial", plan.number),
            folder=folder,
            from_epoch=last,
        )

    def attempt(self, trial: int) -> int:
        """Return the number of the attempt that holds a slot."""
        return self._held[trial].attempt

    def max_epochs(self, trial: int) -> int:
        """Return how many epochs a whole training of a trial on a slot has."""
        return self._held[trial].max_epochs

    def num_epochs(self, trial: int) -> int:
        """Return how many epochs a trial on a slot has trained, over all attempts."""
        return len(self._held[trial].epochs)

    def place(self, trial: int, *, node: str, pid: int) -> None:
        """Record which worker process holds the slot."""
        self._study.record.place_attempt(trial, self.attempt(trial), node=node, pid=pid)

    def remark(self, trial: int, text: str) -> None:
        """Record what a worker had to do otherwise than asked; it is said with the trial's end."""
        self._held[trial].remark = text
        self._ledger.note(trial, {"remark": text})

    def saw(self, trial: int, metrics: EpochMetrics) -> None:
        """Note a finished epoch: the budget counts it, unless it was trained before."""
        held = self._held[trial]
        self._patience_of(held).saw(held.multiply_adds, metrics.seconds)
        held.seen_at = self._seconds()
        if metrics.epoch not in held.epochs:
            self._budget.epoch()
        held.epochs.add(metrics.epoch)

    def hung(self) -> dict[int, str]:
        """Return the trials that have been silent for longer than any epoch may take, and why.

        To be called every moment: the time from one call to the next does not count where it is
        long, since it was this process that did not run (suspended, or the whole machine).
        """
        found: dict[int, str] = {}
        now = self._seconds()
        gap, self._looked_at = now - self._looked_at, now
        if gap > _MOMENT:
            for held in self._held.values():
                held.seen_at = min(now, held.seen_at + gap)
        for trial, held in self._held.items():
            limit = self._patience_of(held).seconds(held.multiply_adds)
            if now - held.seen_at > limit:
                found[trial] = f"no epoch within {span(limit)}"
        return found

    def leave(self, trial: int, *, outcome: str, reason: str, failure: str = "") -> str:
        """Take a trial off its slot; return the remark its worker made, or an empty string."""
        held = self._held.pop(trial)
        self._budget.attempt_ended(trial, self._seconds())
        self._study.record.end_attempt(
            trial, held.attempt, outcome=outcome, reason=reason, failure=failure or None
        )
        return held.remark

    def _patience_of(self, held: _Held) -> Patience:
        return self._slow_patience if held.slow else self.patience
