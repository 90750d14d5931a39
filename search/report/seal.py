"""The seal's record: every look at the test set, at which models, why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from search.record.lineage import lineage_of
from search.record.study import Study
from search.words import plural

_SHOWN = 10  # characters of a hash: enough to tell a study's models apart


def seal_facts(study: Study) -> dict[str, Any]:
    """Return every look, how many showed a number, and the words that stand beside each number.

    Looks of ancestors are no looks of this study, but count for what its numbers are worth: they
    are in the words, and `looks_before` is a sentence on them, empty where there were none.
    """
    looks = [_look(number, row) for number, row in enumerate(study.record.looks(), start=1)]
    seen = [look for look in looks if look["seen"]]
    broken = any(look["broke_seal"] for look in seen)
    before = (lineage_of(study) or {}).get("test_looks", 0)
    words = f"{plural(len(seen), 'look')} at the test set"
    words += f", {before} before by its ancestors" if before else ""
    return {
        "looks": looks,
        "num_looks": len(seen),
        "seal_broken": broken,
        "looks_words": words + (", SEAL BROKEN" if broken else ""),
        "looks_before": _before(before),
    }


def _before(looks: int) -> str:
    if not looks:
        return ""
    return (
        f"Its ancestors had looked at the test set {plural(looks, 'time')}: what was learnt there"
        " may have gone into this study's space."
    )


def _look(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    seen = row["result"] is not None
    first = "first look" if seen else "opened, but no number was seen"
    return {
        "number": number,
        "at": row["at"],
        "reason": row["reason"],
        "broke_seal": bool(row["broke_seal"]),
        "seen": seen,
        "seal": "broken" if row["broke_seal"] else first,
        "models": _models(row["models"]),
    }


def _models(text: str) -> Sequence[tuple[str, str]]:
    found = json.loads(text)
    return [(name, str(digest)[:_SHOWN]) for name, digest in found.items()]
