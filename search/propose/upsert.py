"""Insert a row, or replace the one with the same key: in the words of the database at hand."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


@cache
def upsert(dialect: str, table: sa.Table, *keys: str) -> sa.Insert:
    """Return the statement; of equal arguments the same one, which SQLAlchemy compiles once.

    Args:
        dialect: `sqlite`, or else PostgreSQL.
        table: Where to.
        keys: The columns that a unique constraint or the primary key is on.
    """
    insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    rest = [c.name for c in table.c if c.name not in keys and not c.primary_key]
    replaced = {name: insert.excluded[name] for name in rest}
    return insert.on_conflict_do_update(index_elements=keys, set_=replaced)
