"""The tables of a study beside Optuna's, in the same database: see `search.record.record`.

`fs_event` holds, in order, all that a search decides from; `fs_decision` what it decided, and on
which event. The others hold the circumstances. `study` is the study's id in Optuna's tables: one
database may hold several.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from search.study_error import strange

_PYTHON: dict[type, set[type]] = {
    int: {int},
    float: {float, int},
    str: {str},
    bool: {bool},
}
"""Types of the values that a column of a type may give."""

metadata = sa.MetaData()

epochs = sa.Table(
    "fs_epoch",
    metadata,
    sa.Column("study", sa.Integer, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("train_loss", sa.Float),
    sa.Column("train_accuracy", sa.Float),
    sa.Column("val_loss", sa.Float),
    sa.Column("val_accuracy", sa.Float),
    sa.Column("learning_rate", sa.Float),
    sa.Column("images_per_second", sa.Float),
    sa.Column("seconds", sa.Float),
    sa.Column("at", sa.Float, nullable=False),
)
attempts = sa.Table(
    "fs_attempt",
    metadata,
    sa.Column("study", sa.Integer, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("from_epoch", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("node", sa.String(255)),
    sa.Column("pid", sa.Integer),
    sa.Column("outcome", sa.String(32)),
    sa.Column("reason", sa.Text),
    sa.Column("failure", sa.String(32)),
)
decisions = sa.Table(
    "fs_decision",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.Integer, nullable=False, index=True),
    sa.Column("event", sa.Integer, nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("bracket", sa.Integer, nullable=False),
    sa.Column("rung", sa.Integer, nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("cutoff", sa.Float),
    sa.Column("rank", sa.Integer),
    sa.Column("competitors", sa.Integer),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
events = sa.Table(
    "fs_event",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.Integer, nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer),
    sa.Column("value", sa.Float),
    sa.Column("outcome", sa.String(32)),
    sa.Column("reason", sa.Text),
    sa.Column("failure", sa.String(32)),
    sa.Column("at", sa.Float, nullable=False),
)
looks = sa.Table(
    "fs_look",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.Integer, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("models", sa.Text, nullable=False),
    sa.Column("broke_seal", sa.Boolean, nullable=False),
    sa.Column("result", sa.Text),
)
sessions = sa.Table(
    "fs_session",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.Integer, nullable=False, index=True),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
)


def rows_of(
    engine: sa.Engine,
    table: sa.Table,
    study: int,
    *order: sa.ColumnElement[Any],
    where: sa.ColumnElement[bool] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of one study in the given order, without the column that says whose.

    Raises:
        StorageError: A value is of another type than its column. SQLite takes any, and gives it
            back: a bit has flipped.
    """
    columns = [column for column in table.c if column.name != "study"]
    query = sa.select(*columns)
    query = query.where(table.c.study == study).order_by(*order)
    if where is not None:
        query = query.where(where)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(query)]
    for column, values in zip(columns, zip(*rows, strict=True), strict=False):
        odd = set(map(type, values)) - _PYTHON[column.type.python_type]
        if odd - {type(None)} or (odd and not column.nullable):
            where_at = Path(engine.url.database or "").parent
            raise strange(where_at, f"{table.name}.{column.name} of type {odd.pop().__name__}")
    names = [column.name for column in columns]
    return [dict(zip(names, row, strict=True)) for row in rows]
