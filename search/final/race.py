"""A race of finalists: who cannot be the best, when to stop, whom to choose.

The decisions follow from the values alone, see `search.final.belief`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.final.belief import Belief, Values, believe

MIN_ROUNDS = 2
"""Rounds before anybody leaves: one says nothing of the noise."""
HOPELESS = 0.02
"""Who is the best with less probability than this leaves."""
SURE = 0.95
"""The race ends where one is the best with this probability."""
MATTERS = 0.0003
"""... or where the best one is not expected to be better than the leader by this much accuracy."""
MOST_GIVEN = 0.005
"""Accuracy that a smaller network may cost at most, however large the standard error is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrant:
    """One configuration in the race."""

    name: str
    """`t0012`, or the baseline's name."""
    kind: str
    """`finalist` or `baseline`."""
    trial: str
    """The trial of the search that had this configuration."""
    parameters: int
    """Trainable parameters of the network."""
    epochs: int
    """Epochs it is trained for in every round: those of the retrain to come."""
    search_value: float
    """What the search saw of it: the highest of many values, hence too high."""
    search_epochs: int
    """After how many epochs it saw that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How the race stands after some rounds."""

    rounds: int
    """Done by all who are still in it."""
    alive: tuple[str, ...]
    """Who goes on, or was in it to the end."""
    left: dict[str, tuple[int, str]]
    """After how many rounds each of the others left, and why."""
    p_best: dict[str, float]
    """Of those who did not diverge; who left has what it had then."""
    means: dict[str, float]
    """Accuracies, with the luck of the rounds taken out."""
    ended: str
    """Why the race is over; empty where it goes on."""
    leader: str
    """The highest mean of those who are alive."""
    chosen: str
    """The smallest network within one standard error of the leader."""
    reason: str
    """Why it is chosen."""


def judge(
    entrants: Sequence[Entrant],
    values: Values,
    *,
    max_rounds: int,
    validation_images: int,
    train_images: int,
) -> Verdict | None:
    """Return how a race stands by its values; None where everybody has diverged.

    Every round is judged as it was when it ended, so the verdict depends on the values alone. A
    round counts once all who are alive have a value in it.
    """
    sizes = {e.name: e.parameters for e in entrants}
    alive, left = [e.name for e in entrants], dict[str, tuple[int, str]]()
    shown = dict[str, float]()
    belief, ended, rounds = None, "", 0
    while not ended:
        if any(len(values.get(name, ())) <= rounds for name in alive):
            break
        rounds += 1
        for name in [n for n in alive if values[n][rounds - 1] is None]:
            alive.remove(name)
            left[name] = (rounds, f"diverged in round {rounds}")
            shown[name] = 0.0
        if not alive:
            # Better one that looked hopeless than none: they are compared among themselves.
            alive = [name for name in left if None not in values[name]]
            if not alive:
                return None
            for name in alive:
                del left[name]
            ended = "everybody who had led diverged"
        seen = {n: values[n][:rounds] for n in (*alive, *left) if None not in values[n][:rounds]}
        belief = believe(seen, validation_images=validation_images, train_images=train_images)
        chances, losses = _among(belief, alive)
        shown |= chances
        if rounds >= MIN_ROUNDS and not ended:
            top = max(alive, key=lambda name: chances[name])
            for name in [n for n in alive if chances[n] < HOPELESS and n != top]:
                alive.remove(name)
                left[name] = (
                    rounds,
                    f"the best with a probability of {max(chances[name], 0.001):.1%} at most",
                )
            ended = _end(alive, chances, losses, rounds, max_rounds)
    if belief is None:
        return None
    means = dict(zip(belief.names, belief.means.tolist(), strict=True))
    leader = max(alive, key=lambda name: (means[name], -sizes[name]))
    chosen, reason = _choose(alive, leader, belief, means, sizes)
    return Verdict(
        rounds=rounds,
        alive=tuple(alive),
        left=left,
        p_best=shown,
        means=means,
        ended=ended,
        leader=leader,
        chosen=chosen,
        reason=reason,
    )


def _among(belief: Belief, alive: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    # Who left for being hopeless still tells of the rounds' luck, but does not compete.
    keep = [belief.names.index(name) for name in alive]
    part = Belief(
        names=tuple(alive),
        means=belief.means[keep],
        covariance=belief.covariance[np.ix_(keep, keep)],
        freedom=belief.freedom,
    )
    return part.p_best()


def _end(
    alive: Sequence[str],
    chances: Mapping[str, float],
    losses: Mapping[str, float],
    rounds: int,
    max_rounds: int,
) -> str:
    if len(alive) == 1:
        return f"only {alive[0]} was left after {rounds} rounds"
    sure = max(alive, key=lambda name: chances[name])
    if chances[sure] >= SURE:
        return f"{sure} is the best with a probability of {chances[sure]:.1%}"
    least = min(losses[name] for name in alive)
    if least < MATTERS:
        return (
            f"going on would not matter: the best is expected to be {100 * least:.3f} points"
            " better than the leader"
        )
    return "these were all the rounds there are" if rounds >= max_rounds else ""


def _choose(
    alive: Sequence[str],
    leader: str,
    belief: Belief,
    means: Mapping[str, float],
    sizes: Mapping[str, int],
) -> tuple[str, str]:
    """Return the smallest network that is not worse by more than one standard error, and why."""
    if len(means) == 1:
        return leader, "nobody else was raced"
    near = [
        name
        for name in alive
        if means[leader] - means[name] <= min(belief.error_between(leader, name), MOST_GIVEN)
        or name == leader
    ]
    chosen = min(near, key=lambda name: (sizes[name], -means[name]))
    if chosen == leader:
        smaller = [name for name in alive if sizes[name] < sizes[leader]]
        more = "; no smaller one is within one standard error of it" if smaller else ""
        return chosen, f"it has the highest mean{more}"
    gap, error = means[leader] - means[chosen], belief.error_between(leader, chosen)
    return chosen, (
        f"it has {sizes[chosen]:,} parameters where {leader}, the highest mean, has"
        f" {sizes[leader]:,}, and is {100 * gap:.2f} points behind: within one standard error"
        f" ({100 * error:.2f} points)"
    )
