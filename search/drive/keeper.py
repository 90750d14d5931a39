"""The one who deletes the checkpoints that a search no longer needs: see `search.drive.holdings`.

No worker writes anything of a trial that waits or has ended, so nothing here races.

A store of objects is listed at the start and at the end alone. In between it follows from a trial's
epochs what lies there, and deletions go on while the driver does something else.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.filesize import decimal

from search.drive.checkpoints import NEWEST
from search.drive.holdings import Holding, Standing, choose, holding_of, holdings_of, written
from search.drive.shelf import ShelfError, Sizes, shelf_of
from search.machine.needs import low_disk

if TYPE_CHECKING:
    from model.train import EpochMetrics
    from search.prune.assignment import Assignment
    from search.prune.ladder import Decision
    from search.record.study import Study

_AT_ONCE = 4  # requests to a store


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
        self._shelf = shelf_of(study)
        self._deleter = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="keeper")
        self._deleting: list[tuple[str, Future[None]]] = []
        self._look_at_disk()
        self._holdings = holdings_of(study, self._shelf.all_sizes())
        self._enforce()

    def started(self, assignment: Assignment, origin: str) -> None:
        """Note that a worker may write into the trial's folder from now on."""
        self._holdings[assignment.trial] = self._running(assignment.trial)

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Note that a trial's checkpoints have changed, and whether it waits now."""
        if decision is not None and decision.action == "pause":
            self._holdings[trial] = self._looked_at(trial, "waiting")
            self._enforce()
        else:
            holding = self._running(trial)
            far = self._shelf.far
            sizes = self._grown(holding, metrics.epoch) if far else self._shelf.sizes(trial)
            self._holdings[trial] = replace(holding, sizes=sizes)
            if self._is_over():
                self._enforce()
        self._look_at_disk()

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Delete what the end of a trial makes superfluous."""
        self._holdings[trial] = self._looked_at(trial, "running")
        self._enforce()

    def failed(self, trial: int, failure: str, reason: str) -> None:
        """Do nothing: what is there is needed to go on."""

    def stopping(self, reason: str) -> None:
        """Do nothing, as above."""

    def sweep(self) -> None:
        """Read everything again: at the end, also trials that ended untold are judged."""
        self._wait_for_deletions()
        try:
            self._holdings = holdings_of(self._study, self._shelf.all_sizes())
        except ShelfError as error:  # the search is over all the same
            self._tell("delete", f"{error}; `gc {self._study.name}` tidies up later")
            return
        self._enforce()
        self._wait_for_deletions()

    def _looked_at(self, number: int, open_as: Standing) -> Holding:
        trial = self._study.trial(number)
        sizes = written(trial) if self._shelf.far else self._shelf.sizes(number)
        return holding_of(self._study, trial, open_as, sizes)

    def _running(self, trial: int) -> Holding:
        # How good it is matters once it waits or has ended.
        fresh = Holding(trial=trial, standing="running", merit=(0.0, 0, trial), best_epoch=None)
        return replace(self._holdings.get(trial, fresh), standing="running")

    def _grown(self, holding: Holding, epoch: int) -> Sizes:
        """Return what a running trial holds at most after an epoch: the newest two and a best."""
        known = next(iter(holding.sizes.values()), None)
        if known is None:
            known = next(iter(written(self._study.trial(holding.trial)).values()), 0)
        sizes = {**holding.sizes, epoch: known}
        return dict(sorted(sizes.items(), reverse=True)[: NEWEST + 1])

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
        name = self._shelf.name(trial, epoch)
        if self._shelf.far:
            begun = self._deleter.submit(self._shelf.discard, trial, epoch)
            self._deleting.append((name, begun))
            self._see_to_deletions()
        else:
            try:
                self._shelf.discard(trial, epoch)
            except OSError as error:  # the search goes on without the room
                self._tell("delete", f"{name} cannot be deleted: {error.strerror}")
        holding = self._holdings[trial]
        left = {e: size for e, size in holding.sizes.items() if e != epoch}
        self._holdings[trial] = replace(holding, sizes=left)

    def _see_to_deletions(self) -> None:
        over = [(name, begun) for name, begun in self._deleting if begun.done()]
        self._deleting = [(name, begun) for name, begun in self._deleting if not begun.done()]
        for name, begun in over:
            if error := begun.exception():  # as above
                self._tell("delete", f"{name} cannot be deleted: {error}")

    def _wait_for_deletions(self) -> None:
        wait([begun for _, begun in self._deleting])
        self._see_to_deletions()

    def _tell(self, about: str, text: str) -> None:
        if about not in self._said:
            self._said.add(about)
            self._say(text)
