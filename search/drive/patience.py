"""How long a worker may go without an epoch before it is taken for hung.

Ray has no limit of its own: a trial that waits for ever keeps its slot for ever. The limit is
learnt: from a probe before the first epoch, then from the epochs themselves.
"""

from __future__ import annotations

_TIMES = 20.0
"""How many times the expected length: other programs, a busy disk, a slower node of a cluster."""
_UNKNOWN_SECONDS = 1800.0
"""Where nothing is known yet."""
_LEAST_SECONDS = 120.0
"""A worker's process may take this long to start on a loaded machine."""


class Patience:
    """Knows how long an epoch may take, by the size of its network."""

    def __init__(self, fixed: float | None = None) -> None:
        """Start without knowledge; `fixed` seconds are the limit for all, whatever is seen."""
        self._fixed = fixed
        self._seen: dict[int, float] = {}
        """Multiply-adds of a network -> seconds of its longest epoch."""

    def saw(self, multiply_adds: int, seconds: float) -> None:
        """Learn from an epoch, or from a probe of one."""
        self._seen[multiply_adds] = max(seconds, self._seen.get(multiply_adds, 0.0))

    def seconds(self, multiply_adds: int) -> float:
        """Return the limit for an epoch.

        A network with more multiply-adds takes longer, but at most in proportion; one with fewer
        takes no longer. So every epoch seen gives an upper bound, and the least of them counts.
        """
        if self._fixed is not None:
            return self._fixed
        if not self._seen:
            return _UNKNOWN_SECONDS
        bounds = (
            taken * max(1.0, multiply_adds / max(1, size)) for size, taken in self._seen.items()
        )
        return max(_LEAST_SECONDS, _TIMES * min(bounds))
