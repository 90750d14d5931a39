"""What an audit suggests for the next study: `asha.grace_epochs` and `asha.reduction_factor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from search.words import plural

ENOUGH = 10
"""Audited trials from which anything is suggested."""
ENOUGH_FOR_LESS = 20
"""Audited trials from which shorter trainings are: of 20 with none misjudged, at most one in six
is, with 95 % confidence."""
AGREES = 0.5
"""Kendall's tau from which the ranking after some epochs is taken to tell the final one: then three
pairs of trials in four are in their final order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How well the ranking of trials after some epochs tells their final one."""

    epochs: int
    tau: float | None
    """Kendall's, from -1 to 1; 1 for the same ranking. None where too few trials are known."""
    trials: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """A suggestion and its grounds."""

    text: str
    changes: Mapping[str, int] = field(default_factory=dict)
    """Keys of the study file with their new values; empty where nothing should change."""


def advise(
    *,
    grace: int,
    eta: int,
    audited: int,
    false_stops: int,
    misjudged: int,
    agreement: Sequence[Agreement],
) -> Advice:
    """Return what to change, if anything.

    Args:
        grace: The first rung, in epochs.
        eta: The reduction factor.
        audited: Audited trials that came to an end of their own.
        false_stops: Those of them that would have won.
        misjudged: Those of them that ended as well as half of those which went on.
        agreement: At every rung, and at epochs below the first one that come into question.
    """
    if audited < ENOUGH:
        return Advice(
            text=f"Too few audited trials to tell ({audited}); {ENOUGH} are needed for a hint."
        )
    if false_stops:
        return _stop_less(grace, eta, audited, false_stops, agreement)
    if misjudged:
        return Advice(
            text=f"Nothing to change: no audited trial would have won, and {misjudged} of {audited}"
            " ended as well as half of those that went on."
        )
    if audited < ENOUGH_FOR_LESS:
        return Advice(
            text=f"Nothing was misjudged among {audited} audited trials; from {ENOUGH_FOR_LESS} on"
            " that is ground enough to stop trials earlier."
        )
    return _stop_more(grace, eta, audited, agreement)


def _stop_less(
    grace: int, eta: int, audited: int, false_stops: int, agreement: Sequence[Agreement]
) -> Advice:
    rungs = [a for a in agreement if a.epochs >= grace]
    first, *later = rungs
    won = f"{false_stops} of {audited} audited trials would have won."
    if first.tau is not None and first.tau < AGREES and later:
        better = next((a for a in later if a.tau is not None and a.tau >= AGREES), later[-1])
        grounds = f"After {_told(first)} the ranking tells little of the final one"
        then = f"after {_told(better)} it does"
        if better.tau is None or better.tau < AGREES:
            then = f"nor does it at any rung up to {_told(better)}"
        return Advice(
            text=f"{won} {grounds}, {then}: set asha.grace_epochs={better.epochs}.",
            changes={"asha.grace_epochs": better.epochs},
        )
    known = "" if first.tau is None else f" The ranking after {_told(first)} is a fair guide, but"
    if eta > 2:
        text = f"{won}{known or ' It may be that'} too few trials go on at a rung"
        return Advice(
            text=f"{text}: set asha.reduction_factor={eta - 1}.",
            changes={"asha.reduction_factor": eta - 1},
        )
    if not later:
        return Advice(
            text=f"{won} Half of the trials go on already, and there is no later rung: with"
            " asha.enabled=false none is lost."
        )
    longer = later[0].epochs
    return Advice(
        text=f"{won} Half of the trials go on at each rung already: give them longer before the"
        f" first one, asha.grace_epochs={longer}.",
        changes={"asha.grace_epochs": longer},
    )


def _stop_more(grace: int, eta: int, audited: int, agreement: Sequence[Agreement]) -> Advice:
    none = f"None of {audited} audited trials was misjudged"
    shorter = next((a for a in agreement if a.epochs < grace), None)
    if shorter is not None and shorter.tau is not None and shorter.tau >= AGREES:
        return Advice(
            text=f"{none}, and the ranking after {_told(shorter)} tells the final one already: set"
            f" asha.grace_epochs={shorter.epochs}.",
            changes={"asha.grace_epochs": shorter.epochs},
        )
    if shorter is not None:
        return Advice(
            text=f"{none}, but the ranking after {_told(shorter)} tells too little to stop there."
        )
    return Advice(
        text=f"{none}: more of them can be stopped at each rung with"
        f" asha.reduction_factor={eta + 1}.",
        changes={"asha.reduction_factor": eta + 1},
    )


def _told(agreement: Agreement) -> str:
    tau = "" if agreement.tau is None else f" (Kendall's tau {agreement.tau:.2f})"
    return f"{plural(agreement.epochs, 'epoch')}{tau}"
