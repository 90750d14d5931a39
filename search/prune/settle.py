"""Settings that a study file leaves open (`auto`), settled before the study is made.

They are written to the study's config.yaml as numbers: what a study was begun with does not change
when it goes on elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from search.config.config import AshaSection, SamplerSection, StudyConfig
from search.prune.asha import AshaRules
from search.prune.ladder import rung_epochs

_ETA = 4
_GRACE = 25
"""Epochs of the longest training for one epoch of grace. Both are what tables of learning curves
prefer: see benchmarks/README.md."""
_LONG_STUDY = 200
"""Trials from which a share of the stopped ones is audited."""
_AUDIT_SHARE, _AUDIT_EPOCHS = 0.05, 0.1
"""Of the trials that would be stopped at their first rung, and of all epochs: at most."""


def settle(config: StudyConfig, *, slots: int) -> StudyConfig:
    """Return the configuration with a number for every `auto` of the sampler and of ASHA."""
    asha = _settle_asha(config)
    sampler = _settle_sampler(config.sampler, slots)
    return config.model_copy(update={"asha": asha, "sampler": sampler})


def expected_trials(config: StudyConfig) -> float | None:
    """Return about how many trials the budget is enough for; None where only time limits it."""
    if config.budget.trials is not None:
        return float(config.budget.trials)
    if config.budget.epochs is not None:
        grace = max(1, round(config.max_epochs / _GRACE))
        rungs = rung_epochs(grace_epochs=grace, reduction_factor=_ETA, max_epochs=config.max_epochs)
        return config.budget.epochs / min(_cost(grace, rungs), config.max_epochs)
    return None


def _cost(grace: int, rungs: Sequence[int]) -> int:
    """Return about how many epochs a trial takes, the early ends and the late ones together."""
    # Every rung costs about as much as the first one: fewer trials get there, for longer.
    return grace * (len(rungs) + 1)


def asha_rules(config: StudyConfig) -> AshaRules:
    """Return ASHA's rules of a settled study."""
    section = config.asha
    assert section.grace_epochs != "auto" and section.reduction_factor != "auto"
    assert section.audit_share != "auto"
    return AshaRules(
        grace_epochs=section.grace_epochs,
        reduction_factor=section.reduction_factor,
        max_epochs=config.max_epochs if section.enabled else 0,
        min_competitors=section.min_competitors,
        form=section.form,
        brackets=section.brackets,
        grow=section.grow,
        audit_share=section.audit_share,
        seed=config.seed,
    )


def rungs_of(config: StudyConfig) -> list[int]:
    """Return the rungs of a settled study's first bracket, in epochs; none where ASHA is off."""
    rules = asha_rules(config)
    return rung_epochs(
        grace_epochs=rules.grace_epochs,
        reduction_factor=rules.reduction_factor,
        max_epochs=rules.max_epochs,
    )


def _settle_asha(config: StudyConfig) -> AshaSection:
    section, epochs = config.asha, config.max_epochs
    eta = section.reduction_factor if section.reduction_factor != "auto" else _ETA
    trials = expected_trials(config)
    grace = section.grace_epochs
    if grace == "auto":
        grace = _grace_epochs(epochs, trials, eta)
    share = section.audit_share
    if share == "auto":
        is_long = trials is not None and trials >= _LONG_STUDY
        rungs = rung_epochs(grace_epochs=grace, reduction_factor=eta, max_epochs=epochs)
        audits = is_long and section.enabled and not section.grow and bool(rungs)
        affordable = round(_AUDIT_EPOCHS * _cost(grace, rungs) / epochs, 3)
        share = min(_AUDIT_SHARE, affordable) if audits else 0.0
    changes = {"reduction_factor": eta, "grace_epochs": grace, "audit_share": share}
    return section.model_copy(update=changes)


def _grace_epochs(epochs: int, trials: float | None, eta: int) -> int:
    grace = max(1, round(epochs / _GRACE))
    # No more rungs than the trials can fill: the last one would otherwise be reached by a single
    # trial, which has nothing to compare with.
    while trials is not None and grace * eta < epochs:
        rungs = rung_epochs(grace_epochs=grace, reduction_factor=eta, max_epochs=epochs)
        if trials >= eta ** len(rungs):
            break
        grace *= eta
    return grace


def _settle_sampler(section: SamplerSection, slots: int) -> SamplerSection:
    startup = section.startup_trials
    if startup == "auto":
        # Every slot draws at least once before there is anything to learn from.
        startup = max(8, 2 * slots)
    return section.model_copy(update={"startup_trials": startup})
