"""Run a study that never happens: slots, ASHA and budget as they are, trainings made up.

What a trial takes comes from `search.machine.pace`; what it is worth is drawn, independently of its
cost: a last value, and a head start that fades until the last epoch, so that ranks at a rung
resemble those at the next one more than those at the end. No Ray, no study on disk.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from search.config.config import StudyConfig
from search.machine.pace import Epoch
from search.plan.ending import race_seconds, retrain_seconds
from search.prune.asha import Asha
from search.prune.budget import Budget
from search.prune.settle import asha_rules

_LEVEL, _APART = 0.85, 0.01
"""Validation accuracy of a middling trial, and how far trials lie apart: what a plateau is
measured in. Nothing else depends on them."""
_MOST_EPOCHS = 10_000
"""Epochs rehearsed; of a longer search the rest is taken to be like them."""
_CLIMB = 4.0  # in units of _APART over all epochs: a head start hardly ever outweighs it


@dataclass(frozen=True, kw_only=True, slots=True)
class Overheads:
    """Seconds in which nothing is trained."""

    start: float = 0.0
    """The command itself: imports, data, the study's folder."""
    ray: float = 0.0
    """From the start of the search to its first trial."""
    worker: float = 0.0
    """To start a slot's process, once in a search."""
    trial: float = 0.0
    """Between two trials of a slot."""
    epoch: float = 0.0
    """Between two epochs of a trial."""
    retrain_worker: float = 0.0
    """To start a process of the retraining, its images loaded."""
    end: float = 0.0
    """Test, export, report."""


# Seconds on two cores of an AMD EPYC (Zen 5), where a probing process starts in _START of them:
# elsewhere they are taken to be longer or shorter as that start is.
_START = 2.4
_COMMAND, _RAY, _WORKER, _TEST_A_MODEL, _REPORT, _EXPORT = 3.0, 4.0, 5.8, 0.8, 3.5, 7.5
_BETWEEN_TRIALS, _BETWEEN_EPOCHS = 0.1, 0.02


def overheads_here(config: StudyConfig, start: float, loading: float) -> Overheads:
    """Return what a study of `config` spends without training, on this machine.

    Args:
        config: The study.
        start: Seconds that a probing process took to start.
        loading: Seconds that the images took to load.
    """
    scale, final = start / _START, config.final
    models = final.seeds + final.baseline_seeds * len(config.baselines)
    return Overheads(
        start=scale * _COMMAND + loading,
        ray=scale * _RAY,
        worker=scale * _WORKER,
        trial=_BETWEEN_TRIALS,
        epoch=_BETWEEN_EPOCHS,
        retrain_worker=start + loading,
        end=scale * (models * _TEST_A_MODEL + _REPORT + _EXPORT * final.export),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is rehearsed."""

    config: StudyConfig
    """Settled: nothing is `auto`."""
    slots: int
    share: float
    """CPU cores of one slot, or its GPUs: what device-hours are counted in."""
    first: Sequence[Epoch]
    """Baselines and points, in their order."""
    drawn: Sequence[Epoch]
    """Configurations of the space, equally likely."""
    baselines: Sequence[Epoch]
    """To retrain beside the winner."""
    spread: float = 0.0
    """Standard deviation of the logarithm of an epoch's seconds: of each trial, and of all
    together, which is the machine's."""
    overheads: Overheads = Overheads()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """How one rehearsed study went."""

    search_seconds: float
    race_seconds: float
    retrain_seconds: float
    rest_seconds: float
    trials: int
    epochs: int
    reached: dict[int, int]
    """Epoch -> trials that were trained so far, for every epoch reached by any."""
    first_share: float
    """Share of the slots' busy time that baselines and points took."""

    @property
    def wall_seconds(self) -> float:
        """Return the length of the whole study."""
        return self.search_seconds + self.race_seconds + self.retrain_seconds + self.rest_seconds


def made_up_value(last: float, early: float, done: float) -> float:
    """Return a trial's validation accuracy after the share `done` of its epochs.

    `last` decides how it ends, `early` how much ahead of that it begins. With both drawn from a
    normal distribution, values at 1/9 and at 1/3 of the training have correlations of 0.75 and 0.83
    with the last value, and of 0.99 with each other. A trial's values hardly ever fall.
    """
    return _LEVEL + _APART * (last + (1 - done) * early + _CLIMB * (done - 1))


def rehearse_often(
    scene: Scene, *, most: int = 200, least: int = 3, seconds: float = 5.0
) -> list[Rehearsal]:
    """Rehearse with seeds 0, 1, ... until there are enough, or the time is up."""
    started, rehearsals = time.monotonic(), list[Rehearsal]()
    while len(rehearsals) < most:
        if len(rehearsals) >= least and time.monotonic() - started > seconds:
            break
        rehearsals.append(rehearse(scene, len(rehearsals)))
    return rehearsals


def rehearse(scene: Scene, seed: int) -> Rehearsal:
    """Rehearse a study once; equal seeds give equal studies."""
    search = _Search(scene, random.Random(seed))
    search.run()
    over, scale = scene.overheads, search.scale
    raced, retrained = _ending_seconds(scene, search, random.Random(seed))
    return Rehearsal(
        search_seconds=search.now * scale,
        race_seconds=raced,
        retrain_seconds=retrained,
        rest_seconds=over.start + over.end,
        trials=round(len(search.trials) * scale),
        epochs=round(sum(search.reached.values()) * scale),
        reached={epoch: round(count * scale) for epoch, count in search.reached.items()},
        first_share=search.first_seconds / max(search.busy_seconds * scale, 1e-9),
    )


def _ending_seconds(scene: Scene, search: _Search, dice: random.Random) -> tuple[float, float]:
    """Return what race and retraining take."""
    if not search.trials:
        return 0.0, 0.0
    # As the trials were: those of a machine that is slow today are slow again.
    order = sorted(search.trials, key=lambda trial: -trial.best)
    baselines = [seconds.full * search.machine for seconds in scene.baselines]
    final, place = scene.config.final, {"epochs": scene.config.max_epochs, "slots": scene.slots}
    worker = scene.overheads.retrain_worker
    seconds = [trial.seconds.full * trial.factor for trial in order]
    return (
        race_seconds(final, seconds, baselines, worker=worker, dice=dice, **place),
        retrain_seconds(final, seconds[0], baselines, worker=worker, **place),
    )


@dataclass(kw_only=True, slots=True)
class _Trial:
    number: int
    seconds: Epoch
    factor: float
    """This trial's seconds by the predicted ones."""
    last: float
    early: float
    """Its learning curve, see `made_up_value`."""
    epoch: int = 0
    best: float = -math.inf
    since: float = 0.0
    """When it took its slot."""


class _Search:
    """The search itself, an epoch of a trial at a time."""

    def __init__(self, scene: Scene, dice: random.Random) -> None:
        self._scene, self._dice = scene, dice
        self._asha = Asha(asha_rules(scene.config))
        self._budget = Budget(scene.config.budget, share=scene.share)
        self._events: list[tuple[float, int]] = []  # when which trial's epoch ends, soonest first
        self._free, self._started = scene.slots, 0
        self.now = scene.overheads.ray
        self.machine = self._factor()
        self.trials: list[_Trial] = []
        self.reached: Counter[int] = Counter()
        self.busy_seconds = self.first_seconds = 0.0
        self.scale = 1.0
        """The whole search by the part of it that was rehearsed."""

    def run(self) -> None:
        """Search until the budget is spent and no trial is in flight, or long enough."""
        self._fill()
        while self._events:
            if self.reached.total() >= _MOST_EPOCHS:
                self.scale = 1 / self._budget.used(self.now).share
                break
            self.now, number = heapq.heappop(self._events)
            self._end_epoch(self.trials[number])
            self._fill()

    def _fill(self) -> None:
        while self._free and (trial := self._next()) is not None:
            self._free -= 1
            trial.since = self.now
            self._budget.attempt_begun(trial.number, self.now)
            over = self._scene.overheads
            delay = over.trial
            if self._started < self._scene.slots:
                delay = over.worker
                self._started += 1
            self._train(trial, delay)

    def _next(self) -> _Trial | None:
        if self._budget.exhausted(self.now):
            return None
        epochs = self._scene.slots * self._scene.config.max_epochs
        ending = self._budget.is_last_stretch(self.now, epochs=epochs)
        promotion = self._asha.next_promotion(last_stretch=ending)
        if promotion is not None:
            self._asha.promote(promotion.trial)
            return self.trials[promotion.trial]
        if self._budget.spent(self.now):
            return None
        number, first = len(self.trials), self._scene.first
        trial = _Trial(
            number=number,
            seconds=first[number] if number < len(first) else self._dice.choice(self._scene.drawn),
            factor=self._factor() * self.machine,
            last=self._dice.gauss(0, 1),
            early=self._dice.gauss(0, 1),
        )
        self.trials.append(trial)
        self._budget.trial_begun()
        return trial

    def _train(self, trial: _Trial, delay: float) -> None:
        seconds = delay + self._scene.overheads.epoch + trial.seconds.trial * trial.factor
        heapq.heappush(self._events, (self.now + seconds, trial.number))

    def _end_epoch(self, trial: _Trial) -> None:
        trial.epoch += 1
        self.reached[trial.epoch] += 1
        self._budget.epoch()
        max_epochs = self._scene.config.max_epochs
        trial.best = max(
            trial.best, made_up_value(trial.last, trial.early, trial.epoch / max_epochs)
        )
        decision = self._asha.decide(trial.number, trial.epoch, trial.best)
        action = "continue" if decision is None else decision.action
        ended = trial.epoch >= max_epochs or action == "stop"
        paused = action == "pause" and not ended
        if not paused and not ended and not self._budget.exhausted(self.now):
            self._train(trial, 0.0)
            return
        self._free += 1
        self._budget.attempt_ended(trial.number, self.now)
        self.busy_seconds += self.now - trial.since
        if trial.number < len(self._scene.first):
            self.first_seconds += self.now - trial.since
        self._budget.trial_ended(trial.best, trial=trial.number)
        if not paused:
            self._asha.end(trial.number)

    def _factor(self) -> float:
        return math.exp(self._dice.gauss(0, self._scene.spread))
