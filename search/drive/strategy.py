"""What to try next and how far to train it: the sampler and ASHA together.

No Ray, no clock, no files: the driver runs it on a study's database, `verify` and
`benchmarks/search.py` on one in memory. It decides from what it is told, in the order it is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.config.config import StudyConfig
from search.config.cube import Draw
from search.config.feasible import Given, Realise
from search.propose.evidence import Tuning
from search.propose.inherited import Inherited
from search.propose.ledger import Ledger
from search.propose.sampler import Proposal, Proposer
from search.prune.asha import Asha
from search.prune.ladder import Decision
from search.prune.settle import asha_rules, rungs_of


class Strategy:
    """Proposes trials, judges their epochs, promotes the paused ones."""

    def __init__(
        self,
        study: optuna.Study,
        config: StudyConfig,
        *,
        draw: Draw,
        realise: Realise,
        given: Sequence[Given] = (),
        tuning: Tuning | None = None,
        inherited: Sequence[Inherited] = (),
    ) -> None:
        """Work on `study`, which is either empty or brought up to date by `judge` and `end`.

        Args:
            study: Holds the trials and their values.
            config: The study's settings, settled: nothing is `auto`.
            draw: The space, define-by-run.
            realise: What a point of the space stands for.
            given: Trials before the sampler's.
            tuning: Of the fidelity sampler, for experiments.
            inherited: Trials of an earlier study: evidence for the sampler. Rungs hold trials of
                this study alone.
        """
        self.study, self._tuning, self._inherited = study, tuning, tuple(inherited)
        self._ledger = Ledger(study)
        self._scores: dict[int, dict[int, float]] = {}
        self.begin_chapter(config, draw=draw, realise=realise, given=given)

    def begin_chapter(
        self, config: StudyConfig, *, draw: Draw, realise: Realise, given: Sequence[Given]
    ) -> None:
        """Go on with other settings, all trials ended: rungs start empty, what is known stays."""
        self._asha = Asha(asha_rules(config))
        self._proposer = Proposer(
            self.study,
            config.sampler,
            draw=draw,
            realise=realise,
            levels=[*rungs_of(config), config.max_epochs],
            seed=config.seed,
            given=given,
            tuning=self._tuning,
            inherited=self._inherited,
        )

    @property
    def paused(self) -> dict[int, int]:
        """Return the trials that wait for promotion, each with its rung in epochs."""
        return self._asha.paused

    @property
    def has_paused(self) -> bool:
        """Whether a trial waits for promotion."""
        return self._asha.has_paused

    def standing(self, trial: int) -> str:
        """Return how a paused trial stands, as a reason to end it."""
        return self._asha.standing(trial)

    def propose(self) -> Proposal:
        """Make the next new trial."""
        return self._proposer.ask()

    def adopt(self, template: FrozenTrial) -> None:
        """Take over a trial that was proposed before, as it was made."""
        self._ledger.add(template)

    def next_promotion(self, *, last_stretch: bool = False) -> Decision | None:
        """Choose the paused trial that may go on now, see `Asha.next_promotion`."""
        return self._asha.next_promotion(last_stretch=last_stretch)

    def promote(self, trial: int) -> None:
        """Let a paused trial go on."""
        self._asha.promote(trial)

    def judge(self, trial: int, epoch: int, value: float) -> Decision | None:
        """Decide on the validation accuracy of a trial's epoch, and tell it to the study."""
        scores = self._scores.setdefault(trial, {})
        # An epoch that is trained again, from an older checkpoint, does not know later ones.
        earlier = [v for e, v in scores.items() if e < epoch]
        decision = self._asha.decide(trial, epoch, max([value, *earlier]))
        scores[epoch] = value
        self._ledger.report(trial, epoch, value)
        return decision

    def end(
        self, trial: int, state: TrialState, value: float | None, facts: Mapping[str, Any]
    ) -> None:
        """End a trial, see `Ledger.end`; its values at the rungs stay."""
        self._asha.end(trial)
        self._ledger.end(trial, state, value, facts)
