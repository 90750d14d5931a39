"""What stopping costs, seen on trials that ASHA would have stopped and that ran on for the audit.

They are a random share of those to be stopped (`asha.audit_share`), so that how they end tells how
the stopped ones would have ended. In the promotion form they are a share of those to be paused; one
that would have been promoted later does not count. Everything is read from the record; no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluate import wilson_interval
from search.config.config import StudyConfig
from search.explain.audit_advice import Advice, Agreement, advise
from search.prune.settle import asha_rules, rungs_of
from search.record.study import Study, Trial, best_of
from search.seeds import derive_seed
from search.words import last_epoch, plural

_RESAMPLES = 2000
_FEWEST_RANKED = 5  # trials from which a correlation of ranks is told


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """One trial that would have been stopped, or paused."""

    trial: int
    bracket: int
    rung: int
    """In epochs."""
    epoch: int
    """After which it would have been."""
    value: float
    """Its best validation accuracy when it got to the rung."""
    final: float | None
    """Its best one by its end; None where it diverged, or has not come to an end of its own."""
    outcome: str
    promotable: bool
    """Whether it would only have waited: others came to its rung and left it among the best."""
    counts: bool
    """Whether it came to an end of its own, complete or diverged, and is not promotable."""
    false_stop: bool
    """Whether it is better than all trials that were not audited: stopping would have lost it."""
    misjudged: bool
    """Whether its final value is at least the median of those that went on to the end."""

    @property
    def verdict(self) -> str:
        """Return what it shows, in a few words."""
        if self.promotable:
            return "would have been promoted"
        if not self.counts:
            return "still runs" if self.outcome == "running" else f"{self.outcome} before its end"
        if self.final is None:
            return "diverged: rightly stopped"
        if self.false_stop:
            return "false stop"
        return "misjudged" if self.misjudged else "rightly stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share of the audited trials that count."""

    count: int
    of: int
    ci95: tuple[float, float]
    """Wilson's interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What the audit of one study has shown so far."""

    trials: tuple[Audited, ...]
    false_stops: Share
    misjudged: Share
    best_of_others: float | None
    """Best validation accuracy of the trials that were not audited, or promotable."""
    median_final: float | None
    """Of the trials that went on to the end by ASHA's rules."""
    regret: float | None
    """Mean over the audited trials of how far each one is above the best of the others, if it is;
    None where none counts yet."""
    regret_ci95: tuple[float, float] | None
    """Percentile bootstrap over the audited trials, seeded."""
    saved_epochs: int
    """Epochs that the trials stopped, or never promoted, were not trained."""
    trained_epochs: int
    """Epochs of all trials together."""
    audit_epochs: int
    """Of those, epochs of audited trials after they would have been stopped."""
    agreement: tuple[Agreement, ...]
    advice: Advice

    def to_dict(self) -> dict[str, Any]:
        """Return it as `result.json` has it."""
        return asdict(self)


def audit(study: Study) -> Audit | None:
    """Return what the audit has shown; None where no trial was audited."""
    return audit_of(study.config, study.trials(), study.record.decisions())


def audit_of(
    config: StudyConfig, trials: Sequence[Trial], decisions: Sequence[Mapping[str, Any]]
) -> Audit | None:
    """Return what the audit of these trials has shown; None where none was audited."""
    drawn = {d["trial"]: d for d in decisions if d["action"] == "audit"}
    if not drawn:
        return None
    kept = _promotable(config, decisions) if config.asha.form == "promotion" else set[int]()
    others = [trial for trial in trials if trial.number not in drawn or trial.number in kept]
    best = best_of(others)
    top = None if best is None else best.value
    finals = [t.value for t in others if t.outcome == "complete" and t.value is not None]
    middle = median(finals) if finals else None
    audited = tuple(_audited(trials[n], d, top, middle, n in kept) for n, d in drawn.items())
    counted = [row for row in audited if row.counts]
    regrets = np.array([max(0.0, (r.final or 0.0) - (top or 0.0)) for r in counted])
    last = {d["trial"]: d["action"] for d in decisions}
    stopped = [
        trials[number]
        for number, action in last.items()
        if action == "stop" or (action == "pause" and trials[number].outcome == "pruned")
    ]
    agreement = _agreement(config, trials, set(drawn) - kept)
    false_stops = _share([row.false_stop for row in counted])
    misjudged = _share([row.misjudged for row in counted])
    return Audit(
        trials=audited,
        false_stops=false_stops,
        misjudged=misjudged,
        best_of_others=top,
        median_final=middle,
        regret=float(regrets.mean()) if counted and top is not None else None,
        regret_ci95=_bootstrap(regrets, config.seed) if counted and top is not None else None,
        saved_epochs=sum(config.max_epochs - last_epoch(trial) for trial in stopped),
        trained_epochs=sum(len(trial.epochs) for trial in trials),
        audit_epochs=sum(max(0, last_epoch(trials[r.trial]) - r.epoch) for r in audited),
        agreement=agreement,
        advice=advise(
            grace=rungs_of(config)[0],
            eta=asha_rules(config).reduction_factor,
            audited=len(counted),
            false_stops=false_stops.count,
            misjudged=misjudged.count,
            agreement=agreement,
        ),
    )


def why_no_audit(study: Study) -> str:
    """Return why there are no audited trials, and how there would be."""
    asha = study.config.asha
    if not asha.enabled:
        return "ASHA is off in this study: no trial is stopped, and there is nothing to audit."
    held = {d["trial"] for d in study.record.decisions() if d["action"] in ("stop", "pause")}
    done = "paused at a rung" if asha.form == "promotion" else "stopped"
    if (share := asha_rules(study.config).audit_share) > 0:
        count = f"{plural(len(held), 'trial')} {done}"
        return f"No trial was drawn for the audit: {count}, each with a chance of {share:.1%}."
    return (
        "The audit was off. Switch it on in another study with --set asha.audit_share=0.05: one in"
        f" twenty of the trials to be {done} then runs on, to measure what stopping costs."
    )


def value_at(trial: Trial, epochs: int) -> float | None:
    """Return a trial's best validation accuracy after some epochs; None before it gets there."""
    rows = [row for row in trial.epochs if row.epoch <= epochs]
    scores = [row.val_accuracy for row in rows if row.val_accuracy is not None]
    return max(scores, default=None) if last_epoch(trial) >= epochs else None


def _promotable(config: StudyConfig, decisions: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the audited trials that would have been promoted: others came, and they stayed high.

    ASHA promotes before it proposes, so that whoever is among the best floor(n / eta) at any time
    goes on soon after.
    """
    rules = asha_rules(config)
    rungs: dict[tuple[int, int], dict[int, float]] = {}
    waiting: dict[tuple[int, int], set[int]] = {}
    found: set[int] = set()
    for row in decisions:
        if row["action"] == "promote":
            continue  # of one that arrived before
        place = row["bracket"], row["rung"]
        values = rungs.setdefault(place, {})
        values[row["trial"]] = row["value"]
        if row["action"] == "audit":
            waiting.setdefault(place, set()).add(row["trial"])
        if len(values) > rules.min_competitors:
            ranked = sorted(values, key=lambda trial: (-values[trial], trial))
            best = ranked[: len(values) // rules.reduction_factor]
            found |= waiting.get(place, set()).intersection(best)
    return found


def _audited(
    trial: Trial,
    decision: Mapping[str, Any],
    top: float | None,
    middle: float | None,
    promotable: bool,
) -> Audited:
    final = trial.value if trial.outcome == "complete" else None
    return Audited(
        trial=trial.number,
        bracket=decision["bracket"],
        rung=decision["rung"],
        epoch=decision["epoch"],
        value=decision["value"],
        final=final,
        outcome=trial.outcome,
        promotable=promotable,
        counts=trial.outcome in ("complete", "infeasible") and not promotable,
        false_stop=final is not None and top is not None and final > top,
        misjudged=final is not None and middle is not None and final >= middle,
    )


def _share(marks: Sequence[bool]) -> Share:
    return Share(count=sum(marks), of=len(marks), ci95=wilson_interval(sum(marks), len(marks)))


def _bootstrap(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(derive_seed(seed, "audit bootstrap"))
    means = rng.choice(values, size=(_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _agreement(
    config: StudyConfig, trials: Sequence[Trial], audited: set[int]
) -> tuple[Agreement, ...]:
    rules, rungs = asha_rules(config), rungs_of(config)
    shorter = rungs[0] // rules.reduction_factor
    ended = [trial for trial in trials if trial.outcome == "complete"]
    # Each audited trial stands for all the stopped ones that were not drawn.
    weights = np.array([1 / rules.audit_share if t.number in audited else 1.0 for t in ended])
    found = []
    for epochs in [*([shorter] if shorter else []), *rungs]:
        pairs = [(value_at(trial, epochs), trial.value) for trial in ended]
        known = [index for index, pair in enumerate(pairs) if None not in pair]
        tau = None
        if len(known) >= _FEWEST_RANKED:
            values = np.array([pairs[index] for index in known], dtype=np.float64)
            tau = rank_correlation(values[:, 0], values[:, 1], weights[known])
        found.append(Agreement(epochs=epochs, tau=tau, trials=len(known)))
    return tuple(found)


def rank_correlation(
    one: NDArray[np.float64], other: NDArray[np.float64], weights: NDArray[np.float64]
) -> float | None:
    """Return Kendall's tau-b, a pair counting as the product of its weights.

    None where all values of one side are equal. With equal weights it is that of Kendall, "The
    Treatment of Ties in Ranking Problems", Biometrika 33(3), 1945.

    Args:
        one: (n,).
        other: (n,).
        weights: (n,), positive.
    """
    upper = np.triu_indices(len(one), k=1)
    signs = np.sign(one[:, None] - one[None, :])[upper]
    others = np.sign(other[:, None] - other[None, :])[upper]
    pairs = np.outer(weights, weights)[upper]
    norm = float(np.sqrt((pairs * signs**2).sum() * (pairs * others**2).sum()))
    return float((pairs * signs * others).sum()) / norm if norm else None
