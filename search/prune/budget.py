"""What a search may still spend: counts what it is told and compares it with the limits.

No clock, no Ray and no Optuna here. The driver tells what happens, and a new driver tells again
what the record holds; only the order in which trials ended matters.

Nothing is begun once a limit is met, and every trial in flight is judged at the end of each epoch:
it trains to the end of its present one at most. So no limit is passed by more than the trials in
flight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.words import plural, span

if TYPE_CHECKING:  # a screen must show at once, and pydantic takes its time
    from search.config.config import BudgetSection


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """How far one limit is used."""

    limit: str
    """Its key in the study file: `trials`."""
    share: float
    """From 0 to 1; 1 where it is met."""
    text: str
    """For people: `7 of 12 trials`."""


class Budget:
    """What one search has used.

    Arguments called `seconds` are the wall seconds searched by then, over all sessions.
    """

    def __init__(self, section: BudgetSection, *, share: float) -> None:
        """Start with nothing used.

        Args:
            section: The limits.
            share: CPU cores of one slot, or its GPUs where trials use GPUs.
        """
        self._limits, self._share = section, share
        self._trials = self._epochs = 0
        self._slot_seconds = 0.0
        self._open: dict[int, float] = {}
        self._best = -math.inf
        self._counted: set[int] = set()
        self._run = 0
        self._bound: float | None = None

    def trial_begun(self) -> None:
        """Count a trial that is handed out for the first time."""
        self._trials += 1

    def trial_refused(self) -> None:
        """Take back a trial that was begun and turned out to be none that can be tried."""
        self._trials -= 1

    def epoch(self) -> None:
        """Count an epoch. One that is trained again is not told again."""
        self._epochs += 1

    def attempt_begun(self, trial: int, seconds: float) -> None:
        """Note that a trial takes a slot now.

        Both ends are told, not the length: an attempt uses device-hours while it lasts.
        """
        self._open[trial] = seconds

    def attempt_ended(self, trial: int, seconds: float) -> None:
        """Note that a trial leaves its slot now."""
        self.device_seconds(seconds - self._open.pop(trial))

    def device_seconds(self, seconds: float) -> None:
        """Count the wall seconds that an attempt of an earlier session held its slot."""
        self._slot_seconds += seconds

    def trial_ended(self, value: float | None, *, trial: int | None = None) -> None:
        """Count a trial towards the plateau; to be told in the order in which trials end.

        Args:
            value: Its best validation accuracy. None where it failed, diverged or was refused: that
                says nothing of whether better ones are left, neither for nor against.
            trial: Its number, where it may be told twice: a trial that pauses has had its chance,
                and when it ends after all only a better value counts.
        """
        if value is None or self._is_on_plateau():
            return  # what was ended stays ended: a trial in flight may still raise the best
        if value > self._best + self._limits.plateau_delta:
            self._best, self._run = value, 0
        elif trial is None or trial not in self._counted:
            self._run += 1
        if trial is not None:
            self._counted.add(trial)

    def regret(self, bound: float) -> None:
        """Note a new regret bound, in validation accuracy as a fraction."""
        if not self._is_regret_small():  # as above: it may rise again
            self._bound = bound

    def spent(self, seconds: float) -> str:
        """Return why no new trial may be begun, or an empty string.

        What was begun before and has no worker now (it died, or the session ended) may go on, as
        long as the budget is not `exhausted`.
        """
        limits = self._limits
        if reason := self.exhausted(seconds):
            return reason
        if limits.trials is not None and self._trials >= limits.trials:
            return plural(limits.trials, "trial")
        if self._is_on_plateau():
            if limits.plateau_delta:
                least = f"{limits.plateau_delta:g}"
                return (
                    f"no trial better by more than {least} among the last {limits.plateau_trials}"
                )
            return f"no better trial among the last {limits.plateau_trials}"
        if self._is_regret_small():
            return f"the regret bound is {self._bound:.2g}, no more than {limits.regret_bound:g}"
        return ""

    def exhausted(self, seconds: float) -> str:
        """Return why trials in flight stop at their next epoch as well, or an empty string.

        They do not for a number of trials, which includes them, nor on a plateau or at a small
        regret bound: they may be the best yet, and most of their cost is spent.
        """
        limits = self._limits
        if limits.epochs is not None and self._epochs >= limits.epochs:
            return plural(limits.epochs, "epoch")
        if limits.seconds is not None and seconds >= limits.seconds:
            return f"{_number(limits.seconds)} seconds"
        if limits.device_hours is not None and self.device_hours(seconds) >= limits.device_hours:
            return f"{_number(limits.device_hours)} device-hours"
        return ""

    def is_last_stretch(self, seconds: float, *, epochs: int) -> bool:
        """Return whether fewer than `epochs` are left before all is `exhausted`.

        Of time, as many are left as it was enough for so far. The last stretch is a quarter of the
        search at most: a short one is not to be all end.
        """
        whole = ("epochs", "seconds", "device_hours")
        used = max((use.share for use in self.uses(seconds) if use.limit in whole), default=0.0)
        total = self._epochs / used if used else math.inf
        return total - self._epochs < min(epochs, total / 4)

    def device_hours(self, seconds: float) -> float:
        """Return the hours of CPU cores, or of GPUs, that trials have been given."""
        lasting = sum(seconds - begun for begun in self._open.values())
        return (self._slot_seconds + lasting) * self._share / 3600

    def uses(self, seconds: float) -> tuple[Use, ...]:
        """Return how far every limit that is set is used, in the order of the study file."""
        limits, found = self._limits, list[Use]()

        def add(limit: str, share: float, text: str) -> None:
            found.append(Use(limit=limit, share=max(0.0, min(1.0, share)), text=text))

        if limits.trials is not None:
            text = f"{self._trials:,} of {plural(limits.trials, 'trial')}"
            add("trials", self._trials / limits.trials, text)
        if limits.epochs is not None:
            text = f"{self._epochs:,} of {plural(limits.epochs, 'epoch')}"
            add("epochs", self._epochs / limits.epochs, text)
        if limits.seconds is not None:
            text = f"{span(seconds)} of {span(limits.seconds)}"
            add("seconds", seconds / limits.seconds, text)
        if limits.device_hours is not None:
            hours = self.device_hours(seconds)
            text = f"{hours:,.2f} of {_number(limits.device_hours)} device-hours"
            add("device_hours", hours / limits.device_hours, text)
        if limits.plateau_trials is not None:
            text = f"{self._run:,} of {plural(limits.plateau_trials, 'trial')} without a better one"
            add("plateau_trials", self._run / limits.plateau_trials, text)
        if limits.regret_bound is not None and self._bound is not None:
            text = f"regret bound {self._bound:.2g}, ends at {limits.regret_bound:g}"
            share = 1.0 if self._is_regret_small() else limits.regret_bound / self._bound
            add("regret_bound", share, text)
        return tuple(found)

    def used(self, seconds: float) -> Use:
        """Return the limit that is used the furthest.

        The plateau and the regret bound count only once met: until then they may draw back.
        """
        stops = ("plateau_trials", "regret_bound")
        lasting = [u for u in self.uses(seconds) if u.share >= 1 or u.limit not in stops]
        return max(lasting, key=lambda use: use.share)

    def _is_on_plateau(self) -> bool:
        return self._limits.plateau_trials is not None and self._run >= self._limits.plateau_trials

    def _is_regret_small(self) -> bool:
        limit = self._limits.regret_bound
        return limit is not None and self._bound is not None and self._bound <= limit


def worth(outcome: str | None, value: float | None) -> float | None:
    """Return what a trial that ended counts for on a plateau: its value, if it ended well."""
    return value if outcome in ("complete", "pruned") else None


def describe(section: BudgetSection) -> str:
    """Return the limits on one line: `40 trials or 2 device-hours`."""
    limits: list[str] = []
    if section.trials is not None:
        limits.append(plural(section.trials, "trial"))
    if section.epochs is not None:
        limits.append(plural(section.epochs, "epoch"))
    if section.seconds is not None:
        limits.append(f"{_number(section.seconds)} seconds")
    if section.device_hours is not None:
        limits.append(f"{_number(section.device_hours)} device-hours")
    if section.plateau_trials is not None:
        least = f" by more than {section.plateau_delta:g}" if section.plateau_delta else ""
        limits.append(f"{plural(section.plateau_trials, 'trial')} without one better{least}")
    if section.regret_bound is not None:
        limits.append(f"a regret bound of {section.regret_bound:g}")
    return " or ".join(limits)


def _number(value: float) -> str:
    return f"{value:,.10g}"
