"""The words for trials, networks and numbers, on screens and in logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.one_line import one_line as one_line

if TYPE_CHECKING:
    from search.record.study import Study, Trial


def outcome_line(trial: Trial) -> str:
    """Return how a trial ended and why, on one line."""
    after = f" after {plural(last_epoch(trial), 'epoch')}" if trial.epochs else ""
    value = f", validation {percent(trial.value)}" if trial.value is not None else ""
    return one_line(f"{trial.name} {trial.outcome}{after}{value}: {trial.reason}")


def last_epoch(trial: Trial) -> int:
    """Return how many epochs a trial has trained."""
    return trial.epochs[-1].epoch if trial.epochs else 0


def data_line(study: Study) -> str:
    """Return which images a study uses."""
    facts = study.noted("data") or {}
    train, validation = facts.get("train_images") or 0, facts.get("validation_images") or 0
    return one_line(
        f"{facts.get('name')}: {train:,} images to train on, {validation:,} to score on"
    )


def data_caution(study: Study) -> str:
    """Return what must be known about the images before any number; empty where nothing must."""
    if substitution := study.noted("substitution"):
        return one_line(f"not the data asked for: {substitution}")
    if (study.noted("data") or {}).get("synthetic"):
        return "synthetic images: the accuracies say nothing about real garments"
    return ""


def describe_network(configuration: Mapping[str, Any]) -> str:
    """Return a network in a few words: `32-64 k3-5 x2 residual bn average dense 32 drop 0.2`.

    Filters and kernel sizes by block, convolutions a block, then what is not plain.
    """
    network = configuration["network"]
    words = ["-".join(map(str, network["filters"])), f"k{_by_block(network['kernel_sizes'])}"]
    words += [f"x{network['convs_per_block']}"] if network["convs_per_block"] > 1 else []
    words += ["residual"] if network["residual"] else []
    words += ["bn"] if network["batch_norm"] else []
    words += ["valid"] if network["padding"] == "valid" else []
    words += ["avg-pool"] if network["pooling"] == "avg" else []
    words += ["strided"] if network["pooling"] == "stride" else []
    words += ["squeeze"] if network.get("squeeze") else []  # newer than some records
    words += ["average"] if network["head"] == "average" else []
    words += [f"dense {network['dense_width']}"] if network["dense_width"] else []
    if any(network["block_dropouts"]):
        kind = "channel-drop" if network.get("block_dropout_kind") == "channel" else "block-drop"
        words.append(f"{kind} {_by_block(network['block_dropouts'])}")
    words += [f"drop {network['dropout']:.2g}"] if network["dropout"] else []
    return " ".join(words)


def flip_words(recipe: Mapping[str, Any]) -> list[str]:
    """Return how images are mirrored, in at most one part of a sentence."""
    if not recipe["flip"]:
        return []
    return ["alternating flip" if recipe.get("alternate") else "flip"]  # newer than some records


def average_words(recipe: Mapping[str, Any]) -> list[str]:
    """Return whether weights are averaged, in at most one part of a sentence."""
    return [f"weights averaged {recipe['ema']:g}"] if recipe.get("ema") else []


def _by_block(values: Sequence[float]) -> str:
    return "-".join(f"{value:g}" for value in (values[:1] if len(set(values)) == 1 else values))


def percent(share: float | None) -> str:
    """Return a share as `91.87 %`, or a dash."""
    return "-" if share is None else f"{100 * share:.2f} %"


def p_value(p: float) -> str:
    """Return the p-value of a test: `0.034`, and `1.2e-08` where it is tiny."""
    return f"{p:.2g}" if p >= 0.0001 else f"{p:.1e}"


def plural(count: int, noun: str) -> str:
    """Return `1 epoch` or `3 epochs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def span(seconds: float) -> str:
    """Return a length of time with two units: `45 s`, `3 min 10 s`, `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    count, large, small = (whole, "min", "s") if whole < 3600 else (round(whole / 60), "h", "min")
    return f"{count // 60} {large}" + (f" {count % 60} {small}" if count % 60 else "")


def likely(low: float, high: float) -> str:
    """Return a range of seconds, rounded outwards as coarsely as it is wide."""
    if high - low < 1:
        return span(high)
    step = next((s for s in (5, 10, 30, 60, 300, 600, 1800) if 4 * s >= high - low), 3600)
    low, high = low // step * step, -(-high // step) * step
    return f"likely {span(low)} to {span(high)}"
