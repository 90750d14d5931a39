"""A stage of work in the record, and the signals that end it; no Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from search.drive import session as module
from search.drive.session import session
from search.record.lock import hold
from search.record.stop import drop_stale_request, take_request
from search.record.study import Study

MakeStudy = Callable[..., Study]
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Let no handler of a failed test stay."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.02)


def send(number: int) -> None:
    """Send a signal to this process."""
    os.kill(os.getpid(), number)


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until it holds; the test's own limit ends what waits in vain."""
    while not condition():
        time.sleep(0.01)


def test_a_session_is_in_the_record_from_its_start_to_its_end(make_study: MakeStudy) -> None:
    study = make_study()
    with session(study, "export") as working:
        (row,) = study.sessions.all()
        assert (row["id"], row["stage"], row["pid"]) == (working.number, "export", os.getpid())
        assert row["ended_at"] is None
        wait_for(lambda: study.sessions.all()[0]["seen_at"] > row["seen_at"])
    assert study.sessions.all()[0]["ended_at"] is not None


def test_an_error_ends_the_session_too(make_study: MakeStudy) -> None:
    study = make_study()
    with pytest.raises(ZeroDivisionError), session(study, "export"):
        1 / 0  # noqa: B018
    assert study.sessions.all()[0]["ended_at"] is not None


@pytest.mark.parametrize("number", ENDING)
def test_any_of_three_signals_ends_a_stage_and_handlers_are_restored(
    make_study: MakeStudy, number: signal.Signals
) -> None:
    study = make_study()
    before = [signal.getsignal(number) for number in ENDING]
    with pytest.raises(KeyboardInterrupt, match=number.name), session(study, "retrain"):
        send(number)
        raise AssertionError("it went on")
    assert [signal.getsignal(number) for number in ENDING] == before
    assert study.sessions.all()[0]["ended_at"] is not None


def test_the_first_asks_a_search_to_stop_and_the_second_ends_it(make_study: MakeStudy) -> None:
    told: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt, match="SIGINT"),
        session(make_study(), "search", stop=told.append),
    ):
        send(signal.SIGTERM)
        told.append("it goes on")
        send(signal.SIGINT)
        told.append("it went on")
    assert told == ["SIGTERM received", "it goes on"]


def test_a_third_signal_does_not_break_the_clean_up(make_study: MakeStudy) -> None:
    done: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        session(make_study(), "search", stop=done.append),
    ):
        try:
            send(signal.SIGINT)
            send(signal.SIGINT)
        finally:
            send(signal.SIGINT)
            send(signal.SIGTERM)
            done.append("cleaned up")
    assert done == ["SIGINT received", "cleaned up"]


def test_a_signal_while_a_stage_is_left_counts_once_that_is_done(make_study: MakeStudy) -> None:
    study, done = make_study(), []
    with (
        pytest.raises(KeyboardInterrupt),
        session(study, "search", stop=lambda _: done.append("asked")) as working,
    ):
        working.leave()
        send(signal.SIGINT)
        done.append("cleaned up")
    assert done == ["cleaned up"]
    assert study.sessions.all()[0]["ended_at"] is not None


def test_a_search_that_was_asked_to_stop_and_does_is_not_interrupted_as_well(
    make_study: MakeStudy,
) -> None:
    with session(make_study(), "search", stop=lambda _: None) as working:
        send(signal.SIGINT)
        working.leave()
        send(signal.SIGINT)


def test_nohup_is_respected(make_study: MakeStudy) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with session(make_study(), "retrain"):
        send(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (["stop"], ["asked to by `stop`"]),
        (["now"], ["asked to by `stop`", "KeyboardInterrupt"]),
        (["stop", "now"], ["asked to by `stop`", "KeyboardInterrupt"]),
        (["stop", "stop"], ["asked to by `stop`", "KeyboardInterrupt"]),
        (["anything"], ["asked to by `stop`"]),
    ],
)
def test_a_request_of_another_terminal_is_taken_once(
    make_study: MakeStudy, requests: list[str], expected: list[str]
) -> None:
    study, told = make_study(), list[str]()
    path = study.folder / ".stop"
    try:
        with session(study, "search", stop=told.append):
            for word in requests:
                path.write_text(word)
                wait_for(lambda: not path.exists())
                wait_for(lambda: told)
    except KeyboardInterrupt:
        told.append("KeyboardInterrupt")
    assert told == expected


def test_a_request_to_an_earlier_driver_is_dropped_and_one_to_this_is_not(
    make_study: MakeStudy,
) -> None:
    study = make_study()
    path = study.folder / ".stop"
    path.write_text("now")
    os.utime(path, (1, 1))
    with hold(study):
        with session(study, "search", stop=lambda _: None):
            assert not path.exists()
        # Between two stages: it was meant for this driver, though nobody was listening.
        path.write_text("now")
        with pytest.raises(KeyboardInterrupt), session(study, "retrain"):
            time.sleep(10)


def test_there_is_no_request_where_nobody_asked(make_study: MakeStudy) -> None:
    folder = make_study().folder
    drop_stale_request(folder)
    assert take_request(folder) == ""


def test_what_was_written_to_a_closed_terminal_goes_nowhere(make_study: MakeStudy) -> None:
    before = os.dup(1)
    master, slave = os.openpty()
    os.dup2(slave, 1)
    os.close(slave)
    try:
        os.close(master)
        with pytest.raises(OSError):
            os.write(1, b"gone")
        with pytest.raises(KeyboardInterrupt), session(make_study(), "retrain"):
            send(signal.SIGHUP)
        assert os.write(1, b"gone") == 4
    finally:
        os.dup2(before, 1)
        os.close(before)
