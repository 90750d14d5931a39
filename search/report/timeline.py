"""When which slot trained what: the attempts of a search as bars on one clock."""

from __future__ import annotations

from typing import Any

from search.record.study import Study, trial_name


def timeline(study: Study) -> tuple[list[dict[str, Any]], list[float]]:
    """Return a bar for each attempt, on a clock that stands still between sessions, and the joins.

    A study that was resumed a week later shows its work, not the week.
    """
    sessions = [s for s in study.sessions.all() if s["stage"] == "search"]
    attempts = sorted(study.record.attempts(), key=lambda a: float(a["started_at"]))
    seen: dict[tuple[int, int], float] = {}
    for row in study.record.epochs():
        seen[row.trial, row.attempt] = max(row.at, seen.get((row.trial, row.attempt), 0.0))
    if not attempts:
        return [], []
    ends = [
        a["ended_at"] or seen.get((a["trial"], a["attempt"]), a["started_at"]) for a in attempts
    ]
    spans = [(s["started_at"], s["seen_at"]) for s in sessions]
    spans = spans or [(attempts[0]["started_at"], max(ends))]

    def clock(at: float) -> float:
        return float(sum(max(0.0, min(at, end) - start) for start, end in spans))

    bars = []
    for attempt, end in zip(attempts, ends, strict=True):
        start = clock(attempt["started_at"])
        outcome = attempt["outcome"] or "running"
        name = f"{trial_name(attempt['trial'])}, attempt {attempt['attempt']}: {outcome}"
        after = f", from epoch {attempt['from_epoch']}" if attempt["from_epoch"] else ""
        place = f"{attempt['node'] or 'not placed'} {attempt['pid'] or ''}".strip()
        seconds = max(clock(end) - start, 0.0)
        bars.append(
            {
                "trial": attempt["trial"],
                "outcome": outcome,
                "slot": place if len(place) <= 20 else f"{place[:8]}..{place[-10:]}",
                "start": start,
                "seconds": seconds,
                "words": f"{name}{after}\n{seconds:.1f} s on {place}\n{attempt['reason'] or ''}",
            }
        )
    return bars, [clock(end) for _, end in spans[:-1]]
