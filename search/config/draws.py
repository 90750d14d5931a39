"""Configurations drawn from a study's space at random, as its first trials are. No Optuna."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from data.images import ImageShape
from model.config import Configuration
from search.config.axis import Placed
from search.config.config import StudyConfig
from search.config.feasible import Given, Realised, given_trials, realiser

_MOST_DRAWS = 2000  # about as many as the driver makes before it gives up
_MOST_DRAWS_A_POINT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """What the space yields, and what runs before anything is drawn from it."""

    first: dict[str, Configuration]
    """Baselines and points by name, as far as they are not refused; these trials come first."""
    refused_first: dict[str, str]
    """Baselines and points that are refused, and why."""
    drawn: tuple[Configuration, ...]
    """Configurations that make a network within the limits; none where no draw does."""
    num_draws: int
    refusal: str
    """Why the last refused draw was refused; empty where none was."""

    @property
    def refused_share(self) -> float:
        """Return the share of draws that make no network, or one over the limits."""
        return 1 - len(self.drawn) / self.num_draws


def draw_configurations(config: StudyConfig, shape: ImageShape, *, count: int) -> Draws:
    """Draw until `count` configurations are accepted; the study's seed decides which."""
    space, realise, rng = config.search_space(), realiser(config, shape), random.Random(config.seed)

    def draw(given: Given) -> Realised:
        return given.realised or realise(space.suggest(Placed.at_random(rng, given.values)))

    first: dict[str, Configuration] = {}
    refused: dict[str, str] = {}
    for given in given_trials(config, shape):
        accepted, _, refusal = _draw(partial(draw, given), 1, _MOST_DRAWS_A_POINT)
        if accepted:
            first[given.origin.removeprefix("baseline ")] = accepted[0]
        else:
            refused[given.origin] = refusal
    anything = Given(origin="sampler")
    accepted, num_draws, refusal = _draw(partial(draw, anything), count, _MOST_DRAWS)
    return Draws(
        first=first,
        refused_first=refused,
        drawn=tuple(accepted),
        num_draws=num_draws,
        refusal=refusal,
    )


def _draw(
    draw: Callable[[], Realised], count: int, most: int
) -> tuple[list[Configuration], int, str]:
    """Return what was accepted, the number of draws, and the reason of the last refusal."""
    accepted: list[Configuration] = []
    num_draws, refusal = 0, ""
    while len(accepted) < count and num_draws < most:
        num_draws += 1
        drawn = draw()
        if drawn.refusal or drawn.configuration is None:
            refusal = drawn.refusal
        else:
            accepted.append(Configuration.from_dict(drawn.configuration))
    return accepted, num_draws, refusal
