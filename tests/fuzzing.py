"""What the fuzz tests share: how many inputs, what counts as an answer, and ways to damage a file.

Every input starts from a valid one that is then damaged. A parser may take it, or refuse it with
the error it promises, in one line; anything else is a defect. FUZZ_EXAMPLES=20 tries twenty times
as many inputs, new ones each time.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

INPUTS = {
    "study files": 1800,
    "--set": 1200,
    "IDX": 2000,
    "CSV": 1500,
    "pictures": 1800,
    "data folders": 300,
    "checkpoints": 1200,
    "models to predict": 300,
    "study.db": 80,
    "study folders": 40,
}
"""How many inputs each parser is given."""

TABLE: list[str] = []
"""What was tried, a line a parser; printed when the tests are done."""

_TIMES = int(os.environ.get("FUZZ_EXAMPLES", "1"))
LIMIT = pytest.mark.timeout(300 * _TIMES)
"""For modules of fuzz tests: how long pytest lets one of them take."""
_HANG_SECONDS = 30.0  # a parser that takes longer hangs, however busy the machine
_MEMORY = 2 << 30  # bytes of address space that a parser may take on top of what is there
_LONGEST_LINE = 500

Answer = TypeVar("Answer")


class Tally:
    """Counts the inputs of one parser, and holds each to the rules."""

    def __init__(self, refusal: type[Exception] | tuple[type[Exception], ...]) -> None:
        """Take the errors that the parser promises."""
        self.refusal = refusal
        self.num_inputs = self.num_refused = 0
        self.begun = self.slowest = 0.0

    def answer(self, parse: Callable[[], Answer]) -> Answer | None:
        """Return what a parser makes of an input, or None where it refuses it as it may."""
        self.num_inputs += 1
        self.begun = time.perf_counter()
        try:
            return parse()
        except self.refusal as error:
            self.num_refused += 1
            check_line(str(error))
            return None
        finally:
            self.slowest = max(self.slowest, time.perf_counter() - self.begun)
            self.begun = 0.0


def check_line(line: str) -> None:
    """Hold what people are told to one line that can be shown."""
    assert line and line.isprintable() and len(line) <= _LONGEST_LINE, repr(line)
    for mark in ("Traceback", "object at 0x", "<class '"):
        assert mark not in line, line


def fuzz(
    name: str,
    refusal: type[Exception] | tuple[type[Exception], ...],
    check: Callable[[Tally, Any], None],
) -> None:
    """Give `check` the inputs of one parser; it draws each from Hypothesis and asks the tally."""
    tally, begun = Tally(refusal), time.perf_counter()

    @settings(
        max_examples=INPUTS[name] * _TIMES,
        derandomize=_TIMES == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def run(data: Any) -> None:
        check(tally, data.draw)

    with _bounded_memory(), _bounded_time(tally):
        run()
    TABLE.append(
        f"{name:18} {tally.num_inputs:7,} inputs  {tally.num_refused:7,} refused"
        f"  {time.perf_counter() - begun:6.1f} s  slowest {tally.slowest:5.2f} s"
    )
    assert tally.num_inputs >= INPUTS[name], "Hypothesis ran out of inputs"
    assert 0 < tally.num_refused < tally.num_inputs, "of both kinds there must be some"


@contextmanager
def _bounded_memory() -> Iterator[None]:
    used = psutil.Process().memory_info().vms
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class _Hang(BaseException):
    """An input took too long. Not an Exception: Hypothesis would try it again and again."""


@contextmanager
def _bounded_time(tally: Tally) -> Iterator[None]:
    """Break off an input that never ends; pytest's own limit would only begin a next one."""

    def break_off(*_: Any) -> None:
        raise _Hang(f"one input takes more than {_HANG_SECONDS:.0f} s")

    def watch() -> None:
        while not done.wait(1.0):
            if tally.begun and time.perf_counter() - tally.begun > _HANG_SECONDS:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    done, before = threading.Event(), signal.signal(signal.SIGUSR1, break_off)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


@st.composite
def damaged(draw: Any, content: bytes, ends: tuple[int, ...] = (), most: int = 3) -> bytes:
    """Draw `content` with bytes changed, put in, taken out, repeated, or cut off.

    `ends` bound the parts of a file where the structure is: half of the blows go there.
    """
    data = bytearray(content)
    for _ in range(draw(st.integers(0, most)) if draw(st.booleans()) else 1):
        end = min(draw(st.sampled_from((*ends, len(data)))), len(data))
        at = draw(st.integers(0, max(end - 1, 0)))
        blow = draw(st.sampled_from(_BLOWS))
        if blow == "cut":
            del data[at:]
        elif blow == "remove":
            del data[at : at + draw(st.integers(1, 16))]
        elif blow == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif isinstance(blow, bytes):
            data[at : at + len(blow)] = blow
        else:
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
    return bytes(data)


_BLOWS = (
    *("byte",) * 4,
    "cut",
    "remove",
    "repeat",
    *(b"\0" * n for n in (1, 4, 8)),
    *(b"\xff" * n for n in (1, 4, 8)),
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
)
