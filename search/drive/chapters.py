"""The strategy of a study from its settings, and from one length of training to the next."""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from data.images import ImageShape
from search.config.config import StudyConfig
from search.config.feasible import given_again, given_trials, realiser
from search.drive.strategy import Strategy
from search.propose.inherited import Inherited
from search.record.extension import Extension, as_begun


def first_strategy(
    config: StudyConfig,
    shape: ImageShape,
    extensions: Sequence[Extension],
    inherited: Sequence[Inherited] = (),
) -> Strategy:
    """Return the strategy that a study was begun with, on a study in memory; nothing is told yet.

    Decisions come from memory: the database is written, and read only to begin with.

    Args:
        config: The study's settings now.
        shape: Of the images.
        extensions: All that the study has had; the caller tells them in their turn.
        inherited: What the study knows of earlier ones, by its own record.
    """
    begun = as_begun(config, extensions)
    memory = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="maximize")
    return Strategy(
        memory,
        begun,
        draw=begun.search_space().suggest,
        realise=realiser(begun, shape),
        given=given_trials(begun, shape),
        inherited=inherited,
    )


def extend_strategy(
    strategy: Strategy, extension: Extension, config: StudyConfig, shape: ImageShape
) -> None:
    """Tell a strategy of an extension; more budget alone changes nothing for it."""
    if not extension.is_longer:
        return
    longer = config.model_copy(update={"max_epochs": extension.max_epochs})
    trials = strategy.study.get_trials(deepcopy=False)
    given = [
        given_again(n, trials[n].params, trials[n].user_attrs["configuration"], longer, shape)
        for n in extension.again
    ]
    draw, realise = longer.search_space().suggest, realiser(longer, shape)
    strategy.begin_chapter(longer, draw=draw, realise=realise, given=given)
