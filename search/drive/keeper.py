"""Which checkpoints of a study stay on the disk, and the one who deletes the others.

A running trial keeps its last two and its best, a trial that waits for promotion its last and its
best. Of the trials that have ended, the best few (`checkpoints.keep_best`) keep their network as it
was at its best epoch: `load_checkpoint` of `model.checkpoint` reads it, to use it or to train it on
without the search. Trials that only the budget ended keep their last, for `extend`. When all that
is more than `checkpoints.max_gb`, the least useful goes first.

No worker writes into the folder of a trial that waits or has ended, so nothing here races.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from rich.filesize import decimal

from search.drive.checkpoints import checkpoint_path, discard, found
from search.machine.needs import low_disk
from search.record.extension import may_go_on

if TYPE_CHECKING:
    from pathlib import Path

    from model.train import EpochMetrics
    from search.prune.assignment import Assignment
    from search.prune.ladder import Decision
    from search.record.study import Study, Trial

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


def holdings_of(study: Study) -> dict[int, Holding]:
    """Return the checkpoints of every trial, by number: read from the record and the folders."""
    last = {row["trial"]: row["action"] for row in study.record.decisions()}
    holdings = {}
    for trial in study.trials():
        waits = last.get(trial.number) == "pause"
        holdings[trial.number] = _holding(study, trial, "waiting" if waits else "running")
    return holdings


def _holding(study: Study, trial: Trial, open_as: Standing) -> Holding:
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
        sizes=_sizes(study.trial_folder(trial.number)),
    )


def _sizes(folder: Path) -> dict[int, int]:
    sizes = {}
    for epoch, path in found(folder):
        with suppress(FileNotFoundError):  # a worker that was given up may still be alive
            sizes[epoch] = path.lstat().st_size
    return sizes


class Keeper:
    """Watches a search and deletes the checkpoints that it no longer needs.

    It reads the whole record once, and then one trial whenever that pauses or ends.
    """

    def __init__(self, study: Study, *, say: Callable[[str], None]) -> None:
        """Begin with what is there.

        Args:
            study: The study, which is worked on by this process.
            say: Tells people one line, such as `Screen.warn`; nothing is said twice.
        """
        self._study, self._say = study, say
        self._said: set[str] = set()
        self._look_at_disk()
        self._holdings = holdings_of(study)
        self._enforce()

    def started(self, assignment: Assignment, origin: str) -> None:
        """Note that a worker may write into the trial's folder from now on."""
        self._holdings[assignment.trial] = self._running(assignment.trial)

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Note that a trial's checkpoints have changed, and whether it waits now."""
        if decision is not None and decision.action == "pause":
            self._holdings[trial] = _holding(self._study, self._study.trial(trial), "waiting")
            self._enforce()
        else:
            sizes = _sizes(self._study.trial_folder(trial))
            self._holdings[trial] = replace(self._running(trial), sizes=sizes)
            if self._is_over():
                self._enforce()
        self._look_at_disk()

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Delete what the end of a trial makes superfluous."""
        self._holdings[trial] = _holding(self._study, self._study.trial(trial), "running")
        self._enforce()

    def failed(self, trial: int, failure: str, reason: str) -> None:
        """Do nothing: what is there is needed to go on."""

    def stopping(self, reason: str) -> None:
        """Do nothing, as above."""

    def sweep(self) -> None:
        """Read everything again: at the end, also trials that ended untold are judged."""
        self._holdings = holdings_of(self._study)
        self._enforce()

    def _running(self, trial: int) -> Holding:
        # How good it is matters once it waits or has ended.
        fresh = Holding(trial=trial, standing="running", merit=(0.0, 0, trial), best_epoch=None)
        return replace(self._holdings.get(trial, fresh), standing="running")

    def _is_over(self) -> bool:
        most = self._study.config.checkpoints.max_gb
        held = sum(sum(holding.sizes.values()) for holding in self._holdings.values())
        return most is not None and held > most * 1e9

    def _look_at_disk(self) -> None:
        if warning := low_disk(self._study.folder):
            self._tell("disk", warning)

    def _enforce(self) -> None:
        limits = self._study.config.checkpoints
        most = None if limits.max_gb is None else limits.max_gb * 1e9
        choice = choose(self._holdings.values(), keep_best=limits.keep_best, max_bytes=most)
        for trial, epoch in (*choice.surplus, *choice.squeezed):
            self._delete(trial, epoch)
        # Those that hold nothing do not matter any more: a long study has many of them.
        self._holdings = {trial: h for trial, h in self._holdings.items() if h.sizes}
        quota = f"the {limits.max_gb:g} GB of checkpoints.max_gb" if limits.max_gb else ""
        if choice.squeezed:
            self._tell(
                "quota",
                f"the checkpoints reach {quota}: those of the worst trials are deleted; one that"
                " is promoted all the same trains from its first epoch again",
            )
        if most is not None and choice.kept_bytes > most:
            self._tell(
                "over",
                f"the checkpoints of running trials and of the best take"
                f" {decimal(choice.kept_bytes)}, more than {quota}; raise it, or lower"
                " resources.max_concurrent",
            )

    def _delete(self, trial: int, epoch: int) -> None:
        path = checkpoint_path(self._study.trial_folder(trial), epoch)
        try:
            discard(path)
        except OSError as error:  # the search goes on without the room
            self._tell("delete", f"{path} cannot be deleted: {error.strerror}")
        holding = self._holdings[trial]
        left = {e: size for e, size in holding.sizes.items() if e != epoch}
        self._holdings[trial] = replace(holding, sizes=left)

    def _tell(self, about: str, text: str) -> None:
        if about not in self._said:
            self._said.add(about)
            self._say(text)
