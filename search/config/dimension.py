"""One searched key of a space: its YAML description, and the Optuna parameters it stands for."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

PER_BLOCK = {
    "filters": "filters",
    "kernel_size": "kernel_sizes",
    "block_dropout": "block_dropouts",
}
"""Keys of the space that are set block by block -> fields of `NetworkConfig`."""

_KINDS = ("int", "float", "choice")
_WORDS = (*_KINDS, "log", "step", "per_block", "when")
_PLAIN = (bool, int, float, str)  # what Optuna's tables and config.yaml can hold


class Suggester(Protocol):
    """The part of an Optuna trial that a define-by-run space calls."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimension:
    """One key of the space whose value is searched."""

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    per_block: bool = False
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Other keys and the values they must have for this one to exist."""

    @classmethod
    def parse(cls, key: str, description: Mapping[str, Any]) -> Dimension:
        """Read the YAML form. Raise ValueError naming the key and what is allowed."""
        for word in description:
            if word not in _WORDS:
                raise ValueError(f"space.{key} has no key `{word}`{nearest(str(word), _WORDS)}")
        kinds = [kind for kind in _KINDS if kind in description]
        if len(kinds) != 1:
            raise ValueError(f"space.{key} needs exactly one of {', '.join(_KINDS)}")
        kind, given = kinds[0], description[kinds[0]]
        per_block, log = _flag(key, "per_block", description), _flag(key, "log", description)
        if per_block and key not in PER_BLOCK:
            raise ValueError(f"space.{key} cannot be per_block; only {', '.join(PER_BLOCK)} can")
        when = _conditions(key, description.get("when"))
        if kind == "choice":
            for word in ("log", "step"):
                if word in description:
                    raise ValueError(f"space.{key}.{word} goes with int and float, not with choice")
            return cls(
                key=key, kind=kind, choices=_choices(key, given), per_block=per_block, when=when
            )
        low, high = _range(key, kind, given, log=log)
        step = _step(key, kind, description.get("step"), log=log)
        if step is not None and not _is_whole((high - low) / step):
            raise ValueError(
                f"space.{key}.{kind} is {given!r}, but the highest must be a whole number of steps"
                f" of {step:g} above the lowest"
            )
        return cls(
            key=key,
            kind=kind,
            low=low,
            high=high,
            step=step,
            log=log,
            per_block=per_block,
            when=when,
        )

    def suggest(self, suggester: Suggester, name: str) -> Any:
        """Ask for a value of the parameter `name`."""
        if self.kind == "choice":
            return suggester.suggest_categorical(name, list(self.choices))
        if self.kind == "int":
            step = int(self.step or 1)
            return suggester.suggest_int(
                name, int(self.low), int(self.high), step=step, log=self.log
            )
        return suggester.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def check(self, value: Any, name: str | None = None) -> None:
        """Raise ValueError where `value` cannot be proposed for the parameter `name`."""
        if self.kind == "choice":
            inside = any(map(partial(_same, value), self.choices))
            allowed = f"one of: {', '.join(map(str, self.choices))}"
        else:
            steps = "" if self.step is None else f" in steps of {self.step:g}"
            kind = "a whole number" if self.kind == "int" else "a number"
            allowed = f"{kind} from {self.low:g} to {self.high:g}{steps}"
            inside = _is_number(value) and self.low <= value <= self.high and self._on_grid(value)
            inside = inside and (self.kind == "float" or isinstance(value, int))
        if not inside:
            raise ValueError(f"`{name or self.key}` is {value!r}, but must be {allowed}")

    def _on_grid(self, value: float) -> bool:
        return self.step is None or _is_whole((value - self.low) / self.step)


def nearest(word: str, known: Sequence[str]) -> str:
    """Return "; did you mean `x`?" for the known word nearest to `word`, or the list of them."""
    match = difflib.get_close_matches(word, known, n=1)
    if match:
        return f"; did you mean `{match[0]}`?"
    return f"; allowed: {', '.join(known)}"


def _flag(key: str, word: str, description: Mapping[str, Any]) -> bool:
    value = description.get(word, False)
    if not isinstance(value, bool):
        raise ValueError(f"space.{key}.{word} is {value!r}, but must be true or false")
    return value


def _conditions(key: str, when: Any) -> dict[str, tuple[Any, ...]]:
    if when is None:
        return {}
    if not isinstance(when, Mapping):
        raise ValueError(
            f"space.{key}.when is {when!r}, but must name keys and their values, e.g."
            " {optimizer: sgd}"
        )
    return {
        str(name): tuple(value) if isinstance(value, list) else (value,)
        for name, value in when.items()
    }


def _choices(key: str, given: Any) -> tuple[Any, ...]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"space.{key}.choice is {given!r}, but must be a list of values")
    for value in given:
        if not isinstance(value, _PLAIN):
            raise ValueError(f"space.{key}.choice holds {value!r}, but must hold numbers or words")
    if len(set(map(repr, given))) != len(given):
        raise ValueError(f"space.{key}.choice names a value twice")
    return tuple(given)


def _range(key: str, kind: str, given: Any, *, log: bool) -> tuple[float, float]:
    if not isinstance(given, list) or len(given) != 2 or not all(map(_is_number, given)):
        raise ValueError(f"space.{key}.{kind} is {given!r}, but must be [lowest, highest]")
    low, high = given
    if kind == "int" and not (float(low).is_integer() and float(high).is_integer()):
        raise ValueError(f"space.{key}.int is {given!r}, but must hold whole numbers")
    if low > high:
        raise ValueError(f"space.{key}.{kind} is {given!r}, but the lowest must come first")
    if log and low <= 0:
        raise ValueError(f"space.{key}.{kind} is {given!r}, but with log both must be above 0")
    return float(low), float(high)


def _step(key: str, kind: str, given: Any, *, log: bool) -> float | None:
    if given is None:
        return None
    if not _is_number(given) or given <= 0 or (kind == "int" and not float(given).is_integer()):
        whole = "a whole number" if kind == "int" else "a number"
        raise ValueError(f"space.{key}.step is {given!r}, but must be {whole} above 0")
    if log:
        raise ValueError(f"space.{key} has log and step, which exclude each other")
    return float(given)


def _same(value: Any, choice: Any) -> bool:
    # Not `==` alone: to Python 1 is True and 32.0 is 32, to a configuration they are not.
    alike = type(value) is type(choice) or (type(value), type(choice)) == (int, float)
    return alike and bool(value == choice)


def _is_whole(number: float) -> bool:
    # Optuna's own tolerance. A step far too small for its range makes infinitely many.
    return math.isfinite(number) and math.isclose(number, round(number), rel_tol=0, abs_tol=1e-8)


def _is_number(value: Any) -> bool:
    # Whole numbers above 2^53 would change on their way through a float.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= 2**53  # False for infinity and not-a-number too
