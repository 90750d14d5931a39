"""What every trial of a study holds of checkpoints, and which of them nobody needs.

A running trial keeps its last two and its best, a trial that waits for promotion its last and its
best. Of the trials that have ended, the best few (`checkpoints.keep_best`) keep their network as it
was at its best epoch. Trials that only the budget ended keep their last, for `extend`. When all
that is more than `checkpoints.max_gb`, the least useful goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from model.config import Configuration
from search.drive.checkpoints import NEWEST
from search.drive.shelf import Sizes
from search.machine.needs import checkpoint_size
from search.record.extension import may_go_on

if TYPE_CHECKING:
    from search.record.study import Study
    from search.record.trial import Trial

Standing = Literal["running", "waiting", "cut short", "ended", "worthless"]
"""`waiting`: for promotion. `cut short`: by the end of the budget; `extend` lets it go on.
`worthless`: failed or diverged."""

_NEEDED, _USELESS = 9, 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """The checkpoints of one trial, and how it stands."""

    trial: int
    standing: Standing
    merit: tuple[float, int, int]
    """As `Trial.merit`: the best first."""
    best_epoch: int | None
    sizes: Mapping[int, int] = field(default_factory=dict)
    """Epoch of each checkpoint -> its bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What is to be deleted."""

    surplus: tuple[tuple[int, int], ...]
    """Trial and epoch of what nobody needs."""
    squeezed: tuple[tuple[int, int], ...]
    """Trial and epoch of what would be kept if the quota allowed it, the first to go first."""
    kept_bytes: int
    """What is left then; over the quota only where no more may be deleted."""


def choose(holdings: Iterable[Holding], *, keep_best: int, max_bytes: float | None) -> Choice:
    """Choose which checkpoints of a study are deleted.

    Over the quota these go, of each kind that of the worst trial first: the best of ended trials,
    but for the very best one's; the last of those cut short; the best of those that wait, where it
    is not their last; the last of those that wait. Such a trial trains from its first epoch again
    if it is promoted, to the same weights. Those of running trials stay.
    """
    known = sorted(holdings, key=lambda holding: holding.merit)
    ended = [
        h.trial for h in known if h.standing in ("ended", "cut short") and h.best_epoch in h.sizes
    ]
    places = {trial: place for place, trial in enumerate(ended[:keep_best])}
    files = [
        (_use(h, epoch, places.get(h.trial)), h.trial, epoch, h.sizes[epoch])
        for h in reversed(known)
        for epoch in sorted(h.sizes)
    ]
    files.sort(key=lambda file: file[0])  # stable: of equal use, the worst trial's first
    surplus = [(trial, epoch) for use, trial, epoch, _ in files if use == _USELESS]
    squeezed = []
    left = sum(size for use, *_, size in files if use != _USELESS)
    for use, trial, epoch, size in files:
        if max_bytes is None or left <= max_bytes:
            break
        if _USELESS < use < _NEEDED:
            squeezed.append((trial, epoch))
            left -= size
    return Choice(surplus=tuple(surplus), squeezed=tuple(squeezed), kept_bytes=left)


def _use(holding: Holding, epoch: int, place: int | None) -> int:
    """Return how useful a checkpoint is; `place`: from 0, of the best that have ended."""
    standing, is_last = holding.standing, epoch == max(holding.sizes)
    if standing == "running":
        return _NEEDED
    best = _USELESS
    if epoch == holding.best_epoch:
        if standing == "waiting":
            best = 3
        elif place is not None:
            best = 1 if place else _NEEDED  # the very best is the answer so far
    last = {"waiting": 4, "cut short": 2}.get(standing, _USELESS) if is_last else _USELESS
    return max(best, last)


def holdings_of(study: Study, there: Mapping[int, Sizes]) -> dict[int, Holding]:
    """Return the checkpoints of every trial, by number, as the record and its shelf know them.

    Args:
        study: Whose record is read.
        there: What `Shelf.all_sizes` has found.
    """
    last = {row["trial"]: row["action"] for row in study.record.decisions()}
    holdings = {}
    for trial in study.trials():
        open_as: Standing = "waiting" if last.get(trial.number) == "pause" else "running"
        holdings[trial.number] = holding_of(study, trial, open_as, there.get(trial.number, {}))
    return holdings


def holding_of(study: Study, trial: Trial, open_as: Standing, sizes: Sizes) -> Holding:
    standing: Standing = open_as
    if trial.outcome != "running":
        standing = "worthless"
        if trial.can_win:
            cut_short = may_go_on(trial, study.config.max_epochs)
            standing = "cut short" if cut_short else "ended"
    return Holding(
        trial=trial.number,
        standing=standing,
        merit=trial.merit,
        best_epoch=trial.best_epoch,
        sizes=sizes,
    )


def written(trial: Trial) -> Sizes:
    """Return what a worker has left of a trial, by its epochs: the newest two and the best."""
    epochs = [row.epoch for row in trial.epochs]
    kept = {*epochs[-NEWEST:], *((trial.best_epoch,) if trial.best_epoch else ())}
    configuration = Configuration.from_dict(trial.configuration or {})
    size = checkpoint_size(configuration, trial.parameters or 0)
    return {epoch: size for epoch in sorted(kept, reverse=True)}
