"""A space changed by what its trials showed: a bound moved out or in, a choice gone, a value fixed.

Works on the study file's own description of a key. What may be is not listed here: the best trial's
configuration is made with the new value, and the network's own rules say whether it can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal

from data.images import ImageShape
from model.config import Configuration
from model.geometry import network_cost
from search.config.config import StudyConfig
from search.config.dimension import PER_BLOCK

End = Literal["lowest", "highest"]
Why = Callable[[Any], str]
"""Returns why a value of a key cannot be, or an empty string."""

_SHARE = 1 / 3
"""Of a range, by which it is widened."""


def why_not(
    key: str, best: Mapping[str, Any], config: StudyConfig, shape: ImageShape | None
) -> Why:
    """Return a function that says why the best trial's network cannot have a value of `key`.

    Args:
        key: Of the space.
        best: The best trial's configuration.
        config: Of the study, for its limits.
        shape: Of the images; None where the record does not tell it.
    """

    def why(value: Any) -> str:
        settings = Configuration.from_dict(best).settings()
        network, training = settings["network"], settings["training"]
        if key == "num_blocks":
            for field in PER_BLOCK.values():
                given = list(network[field])
                network[field] = (given + [given[-1]] * 16)[: int(value)]
        elif key in PER_BLOCK:
            network[PER_BLOCK[key]] = [value] * len(network["filters"])
        else:
            (network if key in network else training)[key] = value
        try:
            made = Configuration.from_dict({"network": network, "training": training})
            if shape is None:
                return ""
            cost = network_cost(made.network, shape)
        except ValueError as error:
            return str(error)
        return config.limits.refuse(cost.parameters, cost.multiply_adds)

    return why


def widened(description: Mapping[str, Any], end: End, why: Why) -> tuple[dict[str, Any], str]:
    """Return a key's description with more room at one end, and why it has none; one is empty."""
    reason = ""
    for share in (_SHARE, _SHARE / 2, _SHARE / 4, _SHARE / 8):
        changed = _wider(description, end, share)
        if changed is None:
            break
        if not (reason := why(_bound(changed, end))):
            return changed, ""
    return {}, reason or "there is nothing beyond it"


def cut(description: Mapping[str, Any], end: End, last: float) -> dict[str, Any] | None:
    """Return a key's description that ends at `last`; None where nothing but one value is left."""
    if "choice" in description:
        kept = [c for c in description["choice"] if (c <= last if end == "highest" else c >= last)]
        return dict(description) | {"choice": kept} if len(kept) > 1 else None
    kind = "int" if "int" in description else "float"
    low, high = description[kind]
    low, high = (low, last) if end == "highest" else (last, high)
    if kind == "int":
        low, high = int(low), int(high)
    return dict(description) | {kind: [low, high]} if low < high else None


def without(description: Mapping[str, Any], choice: Any) -> dict[str, Any] | Any:
    """Return a key's description without one of its choices; a constant where one is left."""
    kept = [c for c in description["choice"] if repr(c) != repr(choice)]
    return dict(description) | {"choice": kept} if len(kept) > 1 else kept[0]


def rounded(value: float, *, up: bool, digits: int = 2) -> float:
    """Return a number with few digits, not below (or not above) the one given."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    steps = math.ceil(value / unit - 1e-9) if up else math.floor(value / unit + 1e-9)
    return float(f"{steps * unit:.12g}")


def _bound(description: Mapping[str, Any], end: End) -> Any:
    if "choice" in description:
        return (min if end == "lowest" else max)(description["choice"])
    kind = "int" if "int" in description else "float"
    return description[kind][end == "highest"]


def _wider(description: Mapping[str, Any], end: End, share: float) -> dict[str, Any] | None:
    if "choice" in description:
        # One more value; a smaller step than to the next one there is not.
        more = _next(sorted(description["choice"], reverse=end == "lowest"))
        if share != _SHARE or more is None:
            return None
        kept = list(description["choice"])
        return dict(description) | {"choice": [more, *kept] if end == "lowest" else [*kept, more]}
    kind = "int" if "int" in description else "float"
    low, high = description[kind]
    step = description.get("step") or (1 if kind == "int" else None)
    up = end == "highest"
    if description.get("log"):
        factor = (high / low) ** share
        moved = rounded(high * factor, up=True) if up else rounded(low / factor, up=False)
    elif step is not None:
        width = step * max(1, round(share * (high - low) / step))
        moved = float(f"{(high + width) if up else (low - width):.12g}")
    else:
        width = share * (high - low)
        moved = float(f"{(high + width) if up else (low - width):.3g}")
    if not up and low >= 0 > moved:  # nothing is below none, of most settings
        moved = 0.0
    if kind == "int":
        moved = math.floor(moved) if not up else math.ceil(moved)
    if moved == (high if up else low):
        return None
    return dict(description) | {kind: [low, moved] if up else [moved, high]}


def _next(choices: list[Any]) -> Any:
    """Return the value after a row of numbers, in the way they go on."""
    last = choices[-1]
    steps = [b - a for a, b in pairwise(choices)]
    whole = all(isinstance(choice, int) for choice in choices)
    if max(steps) - min(steps) <= 1e-9 * abs(max(steps)) or min(choices) <= 0:
        value = last + steps[-1]
    else:  # 16, 24, 32, 48, 64 goes on with 96: by the ratio before the last
        value = last * choices[-2] / choices[-3]
    value = round(value) if whole else float(f"{value:.6g}")
    if (value < 0 <= min(choices)) or value in choices:
        return None
    return value
