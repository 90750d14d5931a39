"""The search space: a YAML description, sampled define-by-run, that ends in a `Configuration`.

Each key is a field of the network or of the training recipe. Its value is a constant or one of

    learning_rate: {float: [0.01, 0.4], log: true}
    dense_width: {choice: [0, 32, 64]}
    num_blocks: {int: [2, 4]}
    filters: {choice: [16, 32, 64], per_block: true}      # parameters filters_1, filters_2, ...
    momentum: {float: [0.8, 0.99], when: {optimizer: sgd}} # exists only for that optimizer

so that deeper networks have more parameters, and none that do nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from model.config import MAX_BLOCKS, Configuration, NetworkConfig, TrainingConfig
from search.config.axis import Placed
from search.config.dimension import PER_BLOCK, Dimension, Suggester, nearest

_NETWORK = [f.name for f in fields(NetworkConfig) if f.name not in PER_BLOCK.values()]
_TRAINING = [f.name for f in fields(TrainingConfig) if f.name != "epochs"]
KEYS = ("num_blocks", *PER_BLOCK, *_NETWORK, *_TRAINING)
"""Every key a space may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Searched dimensions in order of asking, and the constants around them."""

    dimensions: tuple[Dimension, ...]
    constants: Mapping[str, Any]
    epochs: int
    """Length of every trial's learning-rate schedule, in epochs."""

    @classmethod
    def parse(cls, description: Mapping[str, Any], *, epochs: int) -> Space:
        """Read the YAML form. Raise ValueError naming the key, what is allowed, the nearest key."""
        dimensions: list[Dimension] = []
        constants: dict[str, Any] = {}
        for key, value in description.items():
            if key not in KEYS:
                raise ValueError(f"space has no key `{key}`{nearest(str(key), KEYS)}")
            if isinstance(value, Mapping):
                dimensions.append(Dimension.parse(key, value))
            else:
                constants[key] = value
        if "filters" not in description:
            raise ValueError("space needs `filters`, e.g. {choice: [16, 32, 64], per_block: true}")
        # The number of blocks comes first: it says how many per-block parameters there are.
        dimensions.sort(key=lambda dimension: dimension.key != "num_blocks")
        space = cls(dimensions=tuple(dimensions), constants=constants, epochs=epochs)
        space._check_num_blocks()
        space._check_conditions()
        space._check_some_combination_works()
        return space

    def suggest(self, suggester: Suggester) -> dict[str, Any]:
        """Ask for every parameter that exists, given those before it; return them by name."""
        values: dict[str, Any] = {}
        for dimension in self.dimensions:
            if self._exists(dimension, values):
                for name in self._names(dimension, values):
                    values[name] = dimension.suggest(suggester, name)
        return values

    def configuration(self, values: Mapping[str, Any]) -> Configuration:
        """Return the configuration that the parameters `values` and the constants stand for.

        Raise ValueError, with the reason, for a combination that makes no network.
        """
        num_blocks = self._num_blocks(values)
        network: dict[str, Any] = {}
        training: dict[str, Any] = {"epochs": self.epochs}
        for key, target in PER_BLOCK.items():
            per_block = [
                values.get(f"{key}_{i}", values.get(key, self.constants.get(key)))
                for i in range(1, num_blocks + 1)
            ]
            if None not in per_block:
                network[target] = tuple(per_block)
        for key in (*_NETWORK, *_TRAINING):
            if key in values or key in self.constants:
                target_dict = network if key in _NETWORK else training
                target_dict[key] = values.get(key, self.constants.get(key))
        return Configuration.from_dict({"network": network, "training": training})

    def check_point(self, point: Mapping[str, Any]) -> None:
        """Raise ValueError where a user's point is not one of this space.

        That is an unknown parameter, one out of its range, or one that does not exist beside the
        other values of the point: it would be left out without a word.
        """
        known = {name: dimension for dimension in self.dimensions for name in self._all(dimension)}
        for name, value in point.items():
            if name not in known:
                raise ValueError(f"no parameter `{name}`{nearest(name, tuple(known))}")
            known[name].check(value, name)
        settled = {**self.constants, **point}
        searched = {dimension.key for dimension in self.dimensions}
        for name in point:
            dimension = known[name]
            for key, allowed in dimension.when.items():
                if key in settled and settled[key] not in allowed:
                    raise ValueError(
                        f"`{name}` exists only where `{key}` is {_either(allowed)}, but it is"
                        f" {settled[key]}"
                    )
            counted = "num_blocks" in settled or "num_blocks" not in searched
            if counted and name not in self._names(dimension, settled):
                raise ValueError(f"`{name}` is given for {self._num_blocks(settled)} blocks")

    def parameter_names(self) -> list[str]:
        """Return every parameter any trial of this space may have, in order of asking."""
        return [name for dimension in self.dimensions for name in self._all(dimension)]

    def _num_blocks(self, values: Mapping[str, Any]) -> int:
        return int(values.get("num_blocks", self.constants.get("num_blocks", 1)))

    def max_blocks(self) -> int:
        """Return the number of blocks of the deepest network."""
        for dimension in self.dimensions:
            if dimension.key == "num_blocks":
                return int(max((dimension.high, *map(float, dimension.choices))))
        return self._num_blocks({})

    def _names(self, dimension: Dimension, values: Mapping[str, Any]) -> list[str]:
        if not dimension.per_block:
            return [dimension.key]
        return [f"{dimension.key}_{i}" for i in range(1, self._num_blocks(values) + 1)]

    def _all(self, dimension: Dimension) -> list[str]:
        return self._names(dimension, {"num_blocks": self.max_blocks()})

    def _exists(self, dimension: Dimension, values: Mapping[str, Any]) -> bool:
        # Drawn hundreds of times a proposal; few dimensions have a condition.
        return not dimension.when or all(
            values.get(key, self.constants.get(key)) in allowed
            for key, allowed in dimension.when.items()
        )

    def _check_num_blocks(self) -> None:
        given: Any = self.constants.get("num_blocks", 1)
        bounds: tuple[Any, ...] = (given,)
        for dimension in self.dimensions:
            if dimension.key == "num_blocks":
                whole = dimension.kind != "float"
                bounds = dimension.choices or (int(dimension.low), int(dimension.high))
                bounds = bounds if whole else (None,)
        for bound in bounds:
            if type(bound) is not int or not 1 <= bound <= MAX_BLOCKS:
                raise ValueError(
                    f"space.num_blocks must be a whole number from 1 to {MAX_BLOCKS}, or"
                    " {int: [lowest, highest]} of such"
                )

    def _check_conditions(self) -> None:
        earlier: dict[str, Dimension | None] = dict.fromkeys(self.constants)
        for dimension in self.dimensions:
            for key, allowed in dimension.when.items():
                if key not in earlier:
                    raise ValueError(
                        f"space.{dimension.key}.when names `{key}`, which must be a key of the"
                        f" space that stands before it{nearest(key, tuple(earlier))}"
                    )
                for value in allowed:
                    self._check_possible(f"space.{dimension.key}.when", key, value, earlier[key])
            if not dimension.per_block:
                earlier[dimension.key] = dimension

    def _check_possible(
        self, place: str, key: str, value: Any, dimension: Dimension | None
    ) -> None:
        if dimension is None and value != self.constants[key]:
            raise ValueError(f"{place}: `{key}` is never {value!r}, always {self.constants[key]!r}")
        if dimension is not None:
            try:
                dimension.check(value)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None

    def _check_some_combination_works(self) -> None:
        # A space none of whose draws makes a network is refused now, not trial by trial.
        reason = ""
        suggester = Placed.at_random(random.Random(0))
        for _ in range(64):
            try:
                self.configuration(self.suggest(suggester))
                return
            except ValueError as error:
                reason = str(error)
        raise ValueError(f"no combination tried makes a valid network; the last one: {reason}")


def _either(values: Sequence[Any]) -> str:
    return " or ".join(map(str, values))
