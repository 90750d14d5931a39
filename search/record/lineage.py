"""What a study keeps of the one it was begun from: who that was, and its trials as evidence.

All of it is in the child's own record, so that the parent may be deleted. The table is made for
studies that have a parent, in whatever database they are in; of grandparents it holds what the
parent had kept. A digest tells whether it is what was written.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from model.config import Configuration
from search.config.config import StudyConfig
from search.config.config_file import dump_config
from search.config.locate import Outside, locate
from search.propose.inherited import UNTRAINABLE, Inherited
from search.record.storage import LOCKS, engine_of
from search.record.tables import rows_of
from search.study_error import StudyError, as_written, strange

if TYPE_CHECKING:
    from search.record.study import Study

NOTED = "lineage"
"""The fact about the study that holds what `Lineage.facts` says."""

_METADATA = sa.MetaData()
_TABLE = sa.Table(
    "fs_inherited",
    _METADATA,
    sa.Column("study", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("origin", sa.String(255), nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("configuration", sa.Text, nullable=False),
    sa.Column("params", sa.Text, nullable=False),
    sa.Column("curve", sa.Text, nullable=False),
    sa.Column("untrainable", sa.Boolean, nullable=False),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """What a new study is given of its parent."""

    facts: Mapping[str, Any]
    """JSON-plain: who the parent is, how many trials were taken, what was changed and why."""
    taken: tuple[Inherited, ...]
    left_out: Mapping[str, int]
    """Why trials were left out, and how many."""


def take_from(
    parent: Study,
    config: StudyConfig,
    *,
    fingerprint: str,
    projected: Collection[str],
    changes: Sequence[Mapping[str, Any]],
) -> Lineage:
    """Return what a study begun from `parent` keeps of it; nothing is written.

    Trials that are comparable are taken: on the same images and split, with a learning-rate
    schedule of the same length, and inside the new space. Baselines are not evidence in the parent
    either.

    Args:
        parent: Is only read, also while it runs.
        config: Of the new study.
        fingerprint: Of its images and their split.
        projected: Keys of the space that did nothing in the parent; fixed, they exclude no trial.
        changes: What was changed in the space, see `lineage_of`.

    Raises:
        StudyError: No trial of the parent can be compared.
    """
    theirs = str((parent.noted("data") or {}).get("fingerprint"))
    as_points = (
        f"to try only its best configurations first, write them by `space {parent.name} --out"
        " child.yaml` and run that without --from"
    )
    if theirs != fingerprint:
        raise StudyError(
            f"trials of {parent.name} are not comparable: it had other images or another split"
            f" (fingerprint {theirs[:12]}, here {fingerprint[:12]}); {as_points}"
        )
    before = parent.noted(NOTED) or {}
    free = sorted({*projected, *before.get("projected", ())})
    space, left_out = config.search_space(), Counter[str]()
    taken: list[Inherited] = []
    for one in _known_to(parent):
        if not one.curve and not one.untrainable:
            left_out["without a value"] += 1
            continue
        try:
            configuration = Configuration.from_dict(one.configuration)
            params = locate(space, configuration, projected=free)
        except Outside as error:
            left_out[str(error)] += 1
            continue
        taken.append(Inherited(**{**asdict(one), "params": params}))
    if not any(one.curve for one in taken):
        why = "; ".join(f"{count} {reason}" for reason, count in left_out.most_common(3))
        raise StudyError(
            f"no trial of {parent.name} is comparable: {why or 'it has none'}; {as_points}"
        )
    facts = {
        "parent": parent.name,
        "parent_study": parent.optuna.study_name,
        "parent_config_sha256": hashlib.sha256(dump_config(parent.config).encode()).hexdigest(),
        "parent_state": parent.state,
        "data_fingerprint": fingerprint,
        "ancestors": [parent.name, *before.get("ancestors", ())],
        "generation": before.get("generation", 1) + 1,
        "trials_taken": len(taken),
        "trials_left_out": dict(left_out.most_common()),
        "projected": free,
        "changes": [dict(change) for change in changes],
        "test_looks": len(parent.shown_looks()) + before.get("test_looks", 0),
        "digest": digest(taken),
    }
    return Lineage(facts=facts, taken=tuple(taken), left_out=left_out)


def write(study: Study, lineage: Lineage) -> None:
    """Write what a new study keeps of its parent."""
    key = study.optuna._study_id
    rows = [
        {"study": key, "number": number, "origin": one.study, "trial": one.trial}
        | {"configuration": json.dumps(one.configuration), "params": json.dumps(one.params)}
        | {"curve": json.dumps(one.curve), "untrainable": one.untrainable}
        for number, one in enumerate(lineage.taken)
    ]
    with study.writing() as connection:
        if connection.dialect.name == "postgresql":  # two that begin at once would both make it
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCKS, 0)))
        _METADATA.create_all(connection)
        connection.execute(_TABLE.insert(), rows)
    study.note(NOTED, dict(lineage.facts))


def inherited(study: Study) -> list[Inherited]:
    """Return the trials of earlier studies that this one knows, in the order they were taken in.

    Raises:
        StorageError: They are not what was written.
    """
    facts = study.noted(NOTED)
    if facts is None:
        return []
    found = as_stored(study)
    if digest(found) != facts.get("digest"):
        raise strange(study.folder, f"trials of {facts.get('parent')} whose digest differs")
    return found


def as_stored(study: Study) -> list[Inherited]:
    """Return them as they are in the record, whether or not that is what was written.

    Raises:
        StorageError: They cannot have been written so, or the table is gone.
    """
    with as_written(study.folder):
        if not is_there(study):
            raise strange(study.folder, f"a parent, but no table {_TABLE.name}")
        rows = rows_of(engine_of(study.optuna), _TABLE, study.optuna._study_id, _TABLE.c.number)
        return [
            Inherited(
                study=row["origin"],
                trial=row["trial"],
                configuration=json.loads(row["configuration"]),
                params=json.loads(row["params"]),
                curve={int(epoch): float(v) for epoch, v in json.loads(row["curve"]).items()},
                untrainable=row["untrainable"],
            )
            for row in rows
        ]


def is_there(study: Study) -> bool:
    """Return whether the study's database has the table: some study in it once had a parent."""
    return sa.inspect(engine_of(study.optuna)).has_table(_TABLE.name)


def digest(trials: Sequence[Inherited]) -> str:
    """Return a SHA-256 of all that is kept of trials (64 hex digits)."""
    text = json.dumps([asdict(one) for one in trials], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def lineage_of(study: Study) -> dict[str, Any] | None:
    """Return where a study comes from, JSON-plain; None where it has no parent.

    `parent`; `ancestors`, the parent first; `generation`, 2 for a child; `trials_taken`;
    `trials_left_out` and `left_out_why` {reason: trials}; `test_looks`, how often the ancestors had
    looked at the test set and seen a number, when the study was begun; `changes` of the space, each
    with `parameter`, `was`, `is` and `why` (empty where a person made it).
    """
    facts = study.noted(NOTED)
    if facts is None:
        return None
    with as_written(study.folder):
        return {
            "parent": facts["parent"],
            "ancestors": facts["ancestors"],
            "generation": facts["generation"],
            "trials_taken": facts["trials_taken"],
            "trials_left_out": sum(facts["trials_left_out"].values()),
            "left_out_why": facts["trials_left_out"],
            "test_looks": facts.get("test_looks", 0),
            "changes": facts["changes"],
        }


def _known_to(parent: Study) -> Iterator[Inherited]:
    # The oldest first: of those that could not be trained the model keeps the last ones.
    yield from inherited(parent)
    frozen = parent.optuna.get_trials(deepcopy=False)
    for trial in parent.trials(frozen):
        if trial.configuration is None or trial.is_baseline:
            continue
        made = frozen[trial.number]
        if not made.params:
            continue  # a baseline again, for longer
        yield Inherited(
            study=parent.name,
            trial=trial.number,
            configuration=trial.configuration,
            params={},
            curve=dict(sorted(made.intermediate_values.items())),
            untrainable=bool(made.user_attrs.get(UNTRAINABLE)),
        )
