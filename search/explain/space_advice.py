"""What a study's trials say about its space, and the space of a child that takes the advice.

Which bounds the best trials press against, which parameters did nothing, where trials failed or
were always weak. Where the trials do not carry a finding there is none: few trials say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from data.images import ImageShape
from search.config.config import StudyConfig
from search.config.cube import Cube
from search.explain.effects import Sample, sample_of
from search.explain.importance import importance
from search.explain.space_change import End, Why, cut, rounded, why_not, widened, without
from search.explain.space_findings import AtEnds, Finding, at_ends, dead, edges
from search.explain.space_regions import failing, weak
from search.record.dataset import image_shape
from search.record.study import Study, StudyError, best_of
from search.words import plural

_ORDER = {"dead": 0, "failed": 1, "weak": 2, "edge": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One key of the space as it was and as it should be."""

    parameter: str
    was: Any
    becomes: Any
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-plain, as the lineage of a child has it."""
        return {
            "parameter": self.parameter,
            "was": self.was,
            "is": self.becomes,
            "why": self.why,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What the trials say."""

    study: str
    trials: int
    """That have a value and lie in the space."""
    needed: int
    """For a comparison of parameters."""
    failed: int
    remark: str
    """What cannot be told, or empty."""
    findings: tuple[Finding, ...]
    changes: tuple[Change, ...]
    kept: Mapping[str, str]
    """Key -> why a finding about it changes nothing."""
    importance: Mapping[str, float]
    ends: Mapping[str, tuple[AtEnds, ...]]
    """Of every parameter that has an order."""
    space: Mapping[str, Any]
    """As the study file has it, with all changes."""
    keys: Mapping[str, tuple[str, ...]]
    """Searched key -> its parameters."""

    @property
    def did_nothing(self) -> set[str]:
        """Return the keys that did nothing."""
        return {finding.key for finding in self.findings if finding.kind == "dead"}

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `space --json`."""
        return {
            "study": self.study,
            "trials": self.trials,
            "needed": self.needed,
            "failed": self.failed,
            "remark": self.remark,
            "findings": [asdict(finding) for finding in self.findings],
            "changes": [change.to_dict() for change in self.changes],
            "unchanged": dict(self.kept),
            "importance": dict(self.importance),
            "best_at_ends": {name: [asdict(e) for e in both] for name, both in self.ends.items()},
            "space": dict(self.space),
        }


def advise(study: Study) -> Advice:
    """Return what a study's own trials say about its space; it is only read, also while it runs."""
    config, trials = study.config, study.trials()
    keys = _keys(config)
    sample, (shares, _) = sample_of(study, trials), importance(study)
    ends = {name: tuple(at_ends(sample, name)) for names in keys.values() for name in names}
    owner = {name: key for key, names in keys.items() for name in names}
    found = [
        *dead(sample, keys, shares),
        *failing(sample, keys),
        *weak(sample, keys),
        *edges(ends, owner),
    ]
    best = best_of([trial for trial in trials if not trial.is_baseline])
    changed = _Changed(study, sample, keys, None if best is None else best.configuration)
    for finding in sorted(found, key=lambda finding: _ORDER[finding.kind]):
        changed.follow(finding)
    remark = ""
    if not sample.is_enough:
        remark = (
            f"Too few trials to tell what mattered: {plural(len(sample.params), 'trial')} of the"
            f" space with a value, and a space of {plural(len(owner), 'parameter')} needs"
            f" {sample.needed}."
        )
    return Advice(
        study=study.name,
        trials=len(sample.params),
        needed=sample.needed,
        failed=len(sample.failed),
        remark=remark,
        findings=tuple(found),
        changes=tuple(changed.changes()),
        kept=changed.kept,
        importance=shares,
        ends={name: both for name, both in ends.items() if both},
        space=changed.space,
        keys=keys,
    )


def changes_between(
    before: Mapping[str, Any], after: Mapping[str, Any], why: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return how two spaces differ, key by key; `why` says it where the change was advised."""
    found = []
    for key in [*before, *(key for key in after if key not in before)]:
        was, becomes = before.get(key), after.get(key)
        if was != becomes:
            change = Change(parameter=key, was=was, becomes=becomes, why=why.get(key, ""))
            found.append(change.to_dict())
    return found


class _Changed:
    """A space to which one finding after the other is applied."""

    def __init__(
        self,
        study: Study,
        sample: Sample,
        keys: Mapping[str, Sequence[str]],
        best: Mapping[str, Any] | None,
    ) -> None:
        self._config, self._sample, self._keys, self._best = study.config, sample, keys, best
        self._shape = _shape_of(study)
        self._named = {
            name
            for description in study.config.space.values()
            if isinstance(description, Mapping)
            for name in description.get("when") or {}
        }
        self.space: dict[str, Any] = dict(study.config.space)
        self.kept: dict[str, str] = {}
        self._why: dict[str, list[str]] = {}

    def changes(self) -> list[Change]:
        """Return what was changed, in order of the space."""
        return [
            Change(parameter=key, was=was, becomes=self.space[key], why="; ".join(self._why[key]))
            for key, was in self._config.space.items()
            if key in self._why
        ]

    def follow(self, finding: Finding) -> None:
        """Change the space as a finding says, if it can be."""
        key, description = finding.key, self.space[finding.key]
        if not isinstance(description, Mapping):
            return  # fixed already, for it did nothing
        changed, reason = self._changed(finding, description)
        if changed is not None and changed != description:
            reason = self._refusal(self.space | {key: changed})
            if not reason:
                self.space[key] = changed
                self._why.setdefault(key, []).append(finding.evidence)
                return
        if reason:
            self.kept[key] = reason

    def _changed(self, finding: Finding, description: Mapping[str, Any]) -> tuple[Any, str]:
        if finding.kind == "dead":
            if finding.key == "num_blocks" or finding.key in self._named:
                return None, "other parameters depend on it"
            return self._fixed(finding.key), ""
        if finding.kind == "edge":
            assert finding.end is not None
            changed, reason = widened(description, finding.end, self._why_not(finding.key))
            return changed or None, reason
        if finding.end is None:
            return without(description, finding.value), ""
        last = self._last(finding.key, description, finding.end, finding.value)
        left = None if last is None else cut(description, finding.end, last)
        return left, "" if left is not None else "hardly anything would be left"

    def _why_not(self, key: str) -> Why:
        assert self._best is not None  # the best trials were found to lie there
        return why_not(key, self._best, self._config, self._shape)

    def _fixed(self, key: str) -> Any:
        """Return the best trial's value; of a key set block by block, that of most blocks."""
        for row in self._sample.best:
            params = self._sample.params[row]
            mine = [params[name] for name in self._keys[key] if name in params]
            if mine:
                return max(mine, key=mine.count)
        return None

    def _last(self, key: str, description: Mapping[str, Any], end: End, value: Any) -> float | None:
        """Return the outermost value that stays: between the region and what lies next to it."""
        names, up = self._keys[key], end == "highest"
        inner: list[Any]
        if "choice" in description:
            inner = [c for c in description["choice"] if (c < value if up else c > value)]
            return (max(inner) if up else min(inner)) if inner else None
        step = description.get("step") or (1 if "int" in description else None)
        if step is not None and not description.get("log"):
            last = value - step if up else value + step
            return float(f"{last:.12g}") if "float" in description else int(last)
        taken = {
            params[name]
            for params in (*self._sample.sound, *self._sample.failed)
            for name in names
            if name in params
        }
        inner = [v for v in taken if (v < value if up else v > value)]
        if not inner:
            return None
        nearest = max(inner) if up else min(inner)
        if "int" in description:
            return int(value) - 1 if up else int(value) + 1
        axis = next(self._sample.cube.axes[n] for n in names if n in self._sample.cube.axes)
        middle = axis.decode((axis.encode(nearest) + axis.encode(value)) / 2)
        for digits in (2, 3, 4):
            last = rounded(middle, up=not up, digits=digits)
            if (nearest <= last < value) if up else (value < last <= nearest):
                return last
        return float(nearest)

    def _refusal(self, space: Mapping[str, Any]) -> str:
        """Return why a study cannot have a space, or an empty string."""
        try:
            StudyConfig.model_validate(self._config.model_dump() | {"space": space, "points": ()})
        except ValidationError as error:
            return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        return ""


def _keys(config: StudyConfig) -> dict[str, tuple[str, ...]]:
    there = Cube(config.search_space().suggest).axes
    names = config.search_space().parameter_names()
    found: dict[str, list[str]] = {}
    for dimension in config.search_space().dimensions:
        key = dimension.key
        mine = [n for n in names if n == key or n.rpartition("_")[0] == key]
        if not dimension.per_block:
            mine = [key]
        found[key] = [name for name in mine if name in there]
    return {key: tuple(mine) for key, mine in found.items() if mine}


def _shape_of(study: Study) -> ImageShape | None:
    try:
        return image_shape(study)
    except StudyError:
        return None
