"""What rehearsed studies tell: the figures to expect, what cannot be, and what is unwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.filesize import decimal

from search.config.config import StudyConfig
from search.config.draws import Draws
from search.machine.needs import Need
from search.machine.probe import Probed
from search.machine.slots import Slots
from search.plan.rehearsal import Rehearsal, Scene
from search.prune.asha import AshaRules
from search.prune.ladder import rung_epochs
from search.words import describe_network, one_line, plural, span

_FEW_TRIALS, _FEW_PROBED = 8, 6
_TIGHT = 0.8  # of what there is


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A median, and the bounds that nine of ten rehearsals lie between."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Return the interval of some values."""
        low, median, high = (float(q) for q in np.quantile(values, (0.05, 0.5, 0.95)))
        return cls(median=median, low=low, high=high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What to expect of a study. Times in seconds."""

    wall: Interval
    search: Interval
    race: Interval
    """Of the finalists; nothing where nobody is raced."""
    retrain: Interval
    rest: Interval
    """Start, test, export, report."""
    trials: Interval
    epochs: Interval
    reached: dict[int, Interval]
    """Rung in epochs -> trials that get there; the last one is a whole training."""
    first_share: Interval
    """Of the slots' busy time, for baselines and points."""
    rehearsals: int

    @classmethod
    def of(cls, rehearsals: Sequence[Rehearsal], rules: AshaRules, max_epochs: int) -> Forecast:
        """Sum up rehearsals of one study."""
        rungs = rung_epochs(
            grace_epochs=rules.grace_epochs,
            reduction_factor=rules.reduction_factor,
            max_epochs=rules.max_epochs,
        )
        return cls(
            wall=Interval.of([r.wall_seconds for r in rehearsals]),
            search=Interval.of([r.search_seconds for r in rehearsals]),
            race=Interval.of([r.race_seconds for r in rehearsals]),
            retrain=Interval.of([r.retrain_seconds for r in rehearsals]),
            rest=Interval.of([r.rest_seconds for r in rehearsals]),
            trials=Interval.of([r.trials for r in rehearsals]),
            epochs=Interval.of([r.epochs for r in rehearsals]),
            reached={
                epoch: Interval.of([r.reached.get(epoch, 0) for r in rehearsals])
                for epoch in (*rungs, max_epochs)
            },
            first_share=Interval.of([r.first_share for r in rehearsals]),
            rehearsals=len(rehearsals),
        )


def refuse_before(config: StudyConfig, draws: Draws) -> list[str]:
    """Return what can be seen to be impossible without a probe, each on one line."""
    reasons = []
    if not draws.drawn:
        reasons.append(
            f"none of {draws.num_draws:,} configurations drawn from the space is within the limits"
            f" (the last one: {one_line(draws.refusal)}); widen `limits` or change `space`"
        )
    epochs = config.budget.epochs
    if epochs is not None and epochs < config.max_epochs:
        reasons.append(
            f"budget.epochs is {epochs}, but one trial of full length takes"
            f" {plural(config.max_epochs, 'epoch')} (max_epochs); raise the one or lower the other"
        )
    return reasons


def refuse_short(scene: Scene) -> list[str]:
    """Return which time limits end before a single drawn trial can, one a line."""
    config, over, budget = scene.config, scene.overheads, scene.config.budget
    epoch = min(seconds.trial for seconds in scene.drawn) + over.epoch
    held = over.worker + config.max_epochs * epoch
    epochs = plural(config.max_epochs, "epoch")
    cannot = "but no configuration of the space can be trained to its end: the fastest of"
    cannot += f" {len(scene.drawn)} drawn needs"
    reasons = []
    if budget.seconds is not None and budget.seconds < over.ray + held:
        fits = int((budget.seconds - over.ray - over.worker) / epoch)
        lower = f", or lower max_epochs to at most {fits}" if fits >= 1 else ""
        enough = -(-(over.ray + held) // 5) * 5
        reasons.append(
            f"budget.seconds is {budget.seconds:g}, {cannot} {span(over.ray + held)} to start and"
            f" for {epochs}; raise it to at least {enough:g}{lower}"
        )
    hours = held * scene.share / 3600
    if budget.device_hours is not None and budget.device_hours < hours:
        reasons.append(
            f"budget.device_hours is {budget.device_hours:g}, {cannot} {hours:.2g} to start and for"
            f" {epochs}; raise it, or lower max_epochs"
        )
    return reasons


def refuse_needs(needs: Sequence[Need], slots: Slots) -> list[str]:
    """Return what there is too little of, one a line."""
    reasons = []
    for need in needs:
        if need.suffices:
            continue
        mend = "free some, or put --runs elsewhere"
        if need.what != "disk":
            mend = "lower the batch size or the networks' width"
            if slots.count > 1:
                fewer = max(1, int(slots.count * need.available / need.total))
                mend = f"try --set resources.max_concurrent={fewer}, or {mend}"
        parts = ", ".join(f"{name} {decimal(part)}" for name, part in need.parts.items())
        reasons.append(
            f"{need.what}: {decimal(need.total)} are needed ({parts}), but"
            f" {decimal(need.available)} are free; {mend}"
        )
    return reasons


def warn_before(config: StudyConfig, draws: Draws, slots: Slots) -> list[str]:
    """Return what is unwise, as far as it can be seen without a probe."""
    warnings = [f"{name} is not run: {one_line(why)}" for name, why in draws.refused_first.items()]
    trials = config.budget.trials
    if trials is not None and trials < len(draws.first):
        warnings.append(
            f"budget.trials is {trials}, less than the {len(draws.first)} baselines and points: not"
            " all of them are run, and nothing is drawn from the space"
        )
    if draws.drawn and draws.refused_share > 0.95:
        warnings.append(
            f"{100 * draws.refused_share:.1f} % of draws from the space are refused; the last one:"
            f" {one_line(draws.refusal)}"
        )
    most = config.resources.max_concurrent
    if most != "auto" and most > slots.count:
        warnings.append(
            f"resources.max_concurrent is {most}, but this machine holds {slots.count} at a time"
        )
    if config.budget.regret_bound is not None:
        warnings.append("budget.regret_bound may end the search earlier; that is not rehearsed")
    return warnings


def warn_busy(busy: float, quiet: Interval | None) -> list[str]:
    """Return that other programs compute here, and what the study would take without them."""
    wall = "it is faster" if quiet is None else f"it takes about {span(quiet.median)}"
    return [f"other programs keep {100 * busy:.0f} % of the CPUs busy; without them {wall}"]


def warn_probe(probed: Probed) -> list[str]:
    """Return what makes the probe itself less sure."""
    warnings = []
    for configuration, reason in probed.failures[:1]:
        network = describe_network(configuration.to_dict())
        count = len(probed.failures)
        warnings.append(f"{count} of the probed failed; {network}: {one_line(reason)}")
    if len(probed.measured) < _FEW_PROBED:
        warnings.append(
            f"only {plural(len(probed.measured), 'configuration')} could be measured; give the"
            " probe more --probe-seconds"
        )
    return warnings


def warn_after(
    config: StudyConfig, draws: Draws, forecast: Forecast, needs: Sequence[Need]
) -> list[str]:
    """Return what is unwise by the figures to expect."""
    warnings = []
    num_first, share = len(draws.first), forecast.first_share.median
    trials = config.budget.trials
    if num_first and forecast.trials.median <= num_first:
        if trials is None or trials >= num_first:  # else it was said before
            warnings.append(
                "the budget is used up by baselines and points: hardly anything is drawn from the"
                " space"
            )
    else:
        if forecast.trials.median < _FEW_TRIALS:
            warnings.append(
                f"about {plural(round(forecast.trials.median), 'trial')} are expected: what fewer"
                f" than {_FEW_TRIALS} find is mostly luck; give more budget, or lower max_epochs"
            )
        if share > 0.5:
            warnings.append(
                f"baselines and points take {100 * share:.0f} % of the search's time; more budget,"
                " or fewer of them, leaves more for the space"
            )
    if forecast.reached[config.max_epochs].median < 1:
        warnings.append(
            f"more often than not no trial is trained for all {config.max_epochs} epochs; give more"
            " budget, or lower max_epochs"
        )
    if forecast.wall.high > 1.3 * forecast.wall.median:
        warnings.append(f"one study in twenty takes longer than {span(forecast.wall.high)}")
    for need in needs:
        if need.suffices and need.total > _TIGHT * need.available:
            warnings.append(
                f"{need.what}: {decimal(need.total)} of the {decimal(need.available)} free are"
                " needed"
            )
    return warnings
