"""What the report tells of the study that this one was begun from, and of what was changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.words import plural


def lineage_facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lineage as rows of words, and the changes of the space; empty without a parent.

    Args:
        result: Its `lineage` is what `search.record.lineage.lineage_of` returns, or null.
    """
    lineage = result.get("lineage")
    if not lineage:
        return {"lineage": None, "lineage_rows": [], "lineage_changes": []}
    rows = [("Parent", str(lineage["parent"]))]
    if len(lineage.get("ancestors", ())) > 1:
        rows.append(("Ancestors", ", ".join(lineage["ancestors"])))
    if "trials_taken" in lineage:
        rows.append(("Taken over", plural(lineage["trials_taken"], "trial") + " as evidence"))
    why = lineage.get("left_out_why", {})
    rows += [("Left out", f"{plural(number, 'trial')}: {reason}") for reason, number in why.items()]
    if looks := lineage.get("test_looks"):
        rows.append(("Test set", f"its ancestors had looked at it {plural(looks, 'time')}"))
    changes = [
        {
            "parameter": change["parameter"],
            "was": _words(change.get("was")),
            "is": _words(change.get("is")),
            "why": change.get("why") or "by hand",
        }
        for change in lineage.get("changes", ())
    ]
    return {"lineage": lineage, "lineage_rows": rows, "lineage_changes": changes}


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(map(_words, value)) if len(value) == 2 else ", ".join(map(_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
