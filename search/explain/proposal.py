"""Why a trial was proposed, in sentences: from what the sampler noted on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.config.cube import Cube
from search.explain.audit import value_at
from search.propose.sampler import ASK_SECONDS
from search.record.lineage import NOTED, inherited
from search.record.study import Study, Trial, trial_name
from search.words import percent, plural

_SHORT = 0.5  # the middle of what a length scale may be: one below it says that something matters
_MOST_NAMED = 4
_MOST_DIFFERENT = 6


def why_proposed(study: Study, trial: Trial) -> list[str]:
    """Return why a trial was proposed, most important first."""
    frozen = study.optuna.get_trials(deepcopy=False)[trial.number]
    basis, origin = trial.proposal, trial.origin
    if origin.startswith("baseline "):
        return [
            f"It is the baseline {origin.removeprefix('baseline ')}: every study runs its baselines"
            " first, to have something to be better than. It lies outside the space, and the"
            " sampler learns nothing from it."
        ]
    if origin.startswith("point "):
        return _point(study, trial, origin, frozen.params)
    lines: list[str] = []
    if origin.startswith("replicate of trial "):
        twin = trial_name(int(origin.rpartition(" ")[2]))
        lines.append(
            f"Hardly anything new is left to try: it is {twin}'s configuration again, with a seed"
            " of its own."
        )
    elif origin == "sampler, at random":
        lines.append(
            "The sampler insisted on what cannot be trained or was tried before, so it was drawn at"
            " random from the space."
        )
    else:
        lines += _by(study, trial, basis, frozen.params)
    seconds = frozen.user_attrs.get(ASK_SECONDS)
    if seconds is not None:
        lines.append(f"The proposal took {1000 * seconds:,.0f} ms.")
    return lines


def length_scales(study: Study, basis: Mapping[str, Any]) -> dict[str, float]:
    """Return the model's length scale of each parameter, the shortest first.

    In parts of the parameter's range: over a short one the accuracy changes much. Empty where the
    proposal did not come from a model.
    """
    scales = list(basis.get("lengthscales", ()))
    if not scales:
        return {}
    found, column = {}, 0
    for name, axis in Cube(study.config.search_space().suggest).axes.items():
        # A word among several has a column each: the parameter matters if one of them does.
        found[name] = float(min(scales[column : column + axis.width]))
        column += axis.width
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _point(study: Study, trial: Trial, origin: str, params: Mapping[str, Any]) -> list[str]:
    fixed = study.config.points[int(origin.rpartition(" ")[2]) - 1]
    left = [name for name in params if name not in fixed]
    line = f"It is {origin} of the study file: points are tried after the baselines, as they are."
    if left:
        line += f" It leaves {_listed(left)} open; the sampler proposed {_them(left)}."
    same = [one for one in inherited(study) if one.params == params and one.value is not None]
    if same:
        line += f" It is the configuration of {same[-1].name}, which reached"
        line += f" {percent(same[-1].value)} there."
    return [line]


def _by(
    study: Study, trial: Trial, basis: Mapping[str, Any], params: Mapping[str, Any]
) -> list[str]:
    by = basis.get("by", "")
    startup = study.config.sampler.startup_trials
    if by == "model":
        return _model(study, trial, basis, params)
    if by == "start":
        line = f"The sampler spreads its first {startup} trials evenly over the space, before there"
        if "index" in basis:
            return [f"{line} is a model; this is number {basis['index'] + 1} of them (Sobol)."]
        return [f"{line} is a model. This one's place cannot be trained; it was drawn at random."]
    known = {
        "exploration": "It was drawn anywhere in the space: a share of the proposals is, so that no"
        " model can be wrong for ever.",
        "nothing observed yet": "It was drawn anywhere in the space: too few trials had a value yet"
        " for a model.",
        "no candidate can be": "It was drawn anywhere in the space: all that the model considered"
        " cannot be trained or was tried before.",
        "tpe": "Optuna's TPE proposed it, from the trials before it; TPE does not tell its"
        f" grounds. Its first {startup} proposals are random.",
        "random": "It was drawn anywhere in the space, as all trials of this study are.",
    }
    return [known.get(by, f"The sampler proposed it ({by or 'it noted no grounds'}).")]


def _model(
    study: Study, trial: Trial, basis: Mapping[str, Any], params: Mapping[str, Any]
) -> list[str]:
    level = plural(basis["level"], "epoch")
    rests = f"{plural(basis['observations'], 'trial')} with values, brought to the scale of {level}"
    if earlier := basis.get("inherited"):
        rests += f"; {earlier} of all these are trials of {_ancestors(study)}"
    if basis["untrainable"]:
        rests += f"; {basis['untrainable']} that could not be trained, as the worst there is"
    if basis["pending"]:
        rests += f"; {basis['pending']} without a value yet, at what the model expects of them"
    expected = (
        f"The model expected {percent(basis['expected'])} +- {100 * basis['deviation']:.2f} points"
        f" after {level}; the best it knew of was {percent(basis['best'])}."
    )
    got = value_at(trial, basis["level"])
    if got is not None:
        gap = (got - basis["expected"]) / max(basis["deviation"], 1e-9)
        expected += f" It got {percent(got)}: {abs(gap):.1f} deviations"
        expected += " above." if gap >= 0 else " below."
    lines = [f"The sampler's model proposed it, for its expected improvement. It rests on {rests}."]
    return [*lines, expected, _place(study, basis, params), *_matters(study, basis)]


def _place(study: Study, basis: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    if basis["near"] is None:
        return "It lies anywhere in the space, not near one of the best trials."
    if basis["near"] < 0:  # before the study's own trials stand those it knows of earlier studies
        one = inherited(study)[basis["near"]]
        parent, name = one.params, one.name
    else:
        name = trial_name(basis["near"])
        parent = study.optuna.get_trials(deepcopy=False)[basis["near"]].params
    moved = [
        f"{name} {_short(params[name])} for {_short(parent[name])}"
        if name in parent
        else f"{name} {_short(params[name])}, which that has not"
        for name in params
        if parent.get(name) != params[name]
    ]
    others = len(moved) - _MOST_DIFFERENT
    told = "; ".join(moved[:_MOST_DIFFERENT]) + (f"; {others} more" if others > 0 else "")
    return f"It was drawn near {name}, one of the best then: {told}."


def _matters(study: Study, basis: Mapping[str, Any]) -> list[str]:
    scales = length_scales(study, basis)
    short = [name for name, scale in scales.items() if scale < _SHORT][:_MOST_NAMED]
    if not short:
        return ["To this model no parameter mattered more than others yet."]
    named = _listed([f"{name} ({scales[name]:.2g})" for name in short])
    least = max(scales, key=scales.__getitem__)
    return [
        f"To this model, accuracy changes fastest along {named} and slowest along {least}"
        f" ({scales[least]:.2g}); in brackets: length scales, in parts of the range."
    ]


def _ancestors(study: Study) -> str:
    names = (study.noted(NOTED) or {}).get("ancestors", ["an earlier study"])
    return f"{names[0]} and before" if len(names) > 1 else str(names[0])


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _them(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
