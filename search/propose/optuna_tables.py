"""Optuna's own tables of a study, written by a few plain statements.

Optuna's storage looks up the trial, and often all trials before it, for every fact: a hundred
statements a trial, more with every trial. Only the driver writes, so what it would look up is known
here. The rows are the same, of Optuna's own models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import _CachedStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

from search.propose.upsert import upsert

Writing = Callable[[], AbstractContextManager[sa.Connection]]
"""Gives the connection to write by; what is written in its block is committed together."""


def _table(model: Any) -> sa.Table:
    table: sa.Table = model.__table__
    return table


_TRIALS, _PARAMS = _table(models.TrialModel), _table(models.TrialParamModel)
_FACTS, _VALUES = _table(models.TrialUserAttributeModel), _table(models.TrialValueModel)
_STEPS = _table(models.TrialIntermediateValueModel)
_OF_STUDY = _TRIALS.c.study_id == sa.bindparam("of_study")
_OF_TRIAL = _TRIALS.c.trial_id == sa.bindparam("of_trial")
_KEYS = sa.select(_TRIALS.c.number, _TRIALS.c.trial_id).where(_OF_STUDY).order_by("trial_id")
_NEWEST = sa.select(sa.func.max(_TRIALS.c.trial_id)).where(_OF_STUDY)
_ADD, _ADD_PARAM, _ADD_FACT = _TRIALS.insert(), _PARAMS.insert(), _FACTS.insert()
_LAST_VALUE = (
    sa.select(_STEPS.c.intermediate_value)
    .where(_STEPS.c.trial_id == sa.bindparam("of_trial"))
    .order_by(_STEPS.c.step.desc())
    .limit(1)
)
_END = _TRIALS.update().where(_OF_TRIAL & (_TRIALS.c.state == TrialState.RUNNING))
_FINITE = models.TrialValueModel.TrialValueType.FINITE
_FINITE_STEP = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE


class OptunaTables:
    """The rows of one study's trials."""

    def __init__(self, study: optuna.Study, writing: Writing | None = None) -> None:
        """Write those of a study by `writing`; without it, each call is a transaction."""
        storage = study._storage
        assert isinstance(storage, _CachedStorage)
        self._storage, self._study = storage, study._study_id
        engine = storage._backend.engine
        self._dialect, self._writing = engine.dialect.name, writing or engine.begin
        self._keys: dict[int, int] | None = None
        """Trial -> the key of its row, by number."""
        self._spelled: dict[str, tuple[BaseDistribution, str]] = {}
        """Parameter -> its last distribution, and that as JSON: mostly the next one's as well."""

    def add(self, template: FrozenTrial) -> None:
        """Write a new trial whole: it must have the next number."""
        with self._writing() as connection:
            keys = self._known(connection)
            newest = connection.scalar(_NEWEST, {"of_study": self._study})
            mine = next(reversed(keys.values()), None), len(keys)
            assert (newest, template.number) == mine, "another process writes to this study"
            row = {
                "number": template.number,
                "study_id": self._study,
                "state": template.state,
                "datetime_start": _in_utc(template.datetime_start),
            }
            made = connection.execute(_ADD, row).inserted_primary_key
            assert made is not None
            key = int(made[0])
            if params := self._params(key, template):
                connection.execute(_ADD_PARAM, params)
            if facts := _facts(key, template.user_attrs):
                connection.execute(_ADD_FACT, facts)
        keys[template.number] = key

    def report(self, number: int, epoch: int, value: float) -> None:
        """Write the value of one epoch; one that was written before is replaced."""
        with self._writing() as connection:
            row = {
                "trial_id": self._known(connection)[number],
                "step": epoch,
                "intermediate_value": value,
                "intermediate_value_type": _FINITE_STEP,
            }
            connection.execute(upsert(self._dialect, _STEPS, "trial_id", "step"), row)

    def note(self, number: int, facts: Mapping[str, Any]) -> None:
        """Write facts on a trial; of the same key the last one stays."""
        with self._writing() as connection:
            self._note(connection, self._known(connection)[number], facts)

    def end(
        self, number: int, state: TrialState, value: float | None, facts: Mapping[str, Any]
    ) -> None:
        """End a trial, with facts on it. A pruned one's value is that of its last epoch."""
        with self._writing() as connection:
            key = self._known(connection)[number]
            self._note(connection, key, facts)
            if state == TrialState.PRUNED:
                value = connection.scalar(_LAST_VALUE, {"of_trial": key})
            if value is not None and state != TrialState.FAIL:
                row = {"trial_id": key, "objective": 0, "value": value, "value_type": _FINITE}
                connection.execute(upsert(self._dialect, _VALUES, "trial_id", "objective"), row)
            ended = {"of_trial": key, "state": state, "datetime_complete": _in_utc(datetime.now())}
            changed = connection.execute(_END, ended).rowcount
            assert changed == 1, f"trial {number} has ended already"

    def reopen(self, number: int, facts: tuple[str, ...]) -> None:
        """Let a trial that has ended run again, without some facts; its epochs stay.

        Optuna has no call for it: what is over is not changed, nor read again.
        """
        with self._writing() as connection:
            key = self._known(connection)[number]
            running = {"state": TrialState.RUNNING, "datetime_complete": None}
            connection.execute(_TRIALS.update().where(_TRIALS.c.trial_id == key).values(running))
            connection.execute(_VALUES.delete().where(_VALUES.c.trial_id == key))
            of_end = (_FACTS.c.trial_id == key) & _FACTS.c.key.in_(facts)
            connection.execute(_FACTS.delete().where(of_end))
        storage = self._storage
        with storage._lock:
            if (known := storage._studies.get(self._study)) is not None:
                storage._add_trials_to_cache(self._study, [storage._backend.get_trial(key)])
                known.unfinished_trial_ids.add(key)

    def _known(self, connection: sa.Connection) -> dict[int, int]:
        if self._keys is None:
            rows = connection.execute(_KEYS, {"of_study": self._study})
            self._keys = {number: key for number, key in rows}
        return self._keys

    def _params(self, key: int, trial: FrozenTrial) -> list[dict[str, Any]]:
        rows = []
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            known = self._spelled.get(name)
            if known is None or known[0] != distribution:
                spelled = str(distribution_to_json(distribution))
                known = self._spelled[name] = (distribution, spelled)
            rows.append(
                {
                    "trial_id": key,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": known[1],
                }
            )
        return rows

    def _note(self, connection: sa.Connection, key: int, facts: Mapping[str, Any]) -> None:
        if rows := _facts(key, facts):
            connection.execute(upsert(self._dialect, _FACTS, "trial_id", "key"), rows)


def _facts(key: int, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"trial_id": key, "key": name, "value_json": json.dumps(fact)}
        for name, fact in facts.items()
    ]


def _in_utc(local: datetime | None) -> datetime | None:
    # As Optuna's models have it: UTC, and no word of that.
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)
