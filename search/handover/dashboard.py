"""TensorBoard and optuna-dashboard on one study, at loopback ports, ended together.

Both only read. Children end with this process, also where it is killed.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from data.one_line import OneLineError
from search.machine.end_with_parent import end_with_parent, signals_to_parent_only

if TYPE_CHECKING:
    from search.record.study import Study

HOST = "127.0.0.1"
READY_SECONDS = 120.0
"""How long a dashboard may take to answer."""
_LEAVE_SECONDS = 5.0


class DashboardError(OneLineError):
    """Say in one line why there is no dashboard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """One dashboard, in a process of its own."""

    name: str
    """Of the program."""
    url: str
    """Where it is seen."""
    port: int
    """Where it listens."""
    process: BaseProcess
    """That runs it."""
    log: Path
    """What it says."""

    def check(self) -> None:
        """Raise DashboardError if it has ended."""
        if self.process.exitcode is not None:
            said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise DashboardError(
                f"{self.name} has ended (exit {self.process.exitcode}):"
                f" {said[-1] if said else 'it said nothing'}"
            )

    def answers(self) -> bool:
        """Return whether it listens."""
        with socket.socket() as caller:
            caller.settimeout(1)
            return caller.connect_ex((HOST, self.port)) == 0


def show_dashboards(
    study: Study, *, tensorboard_port: int, optuna_port: int, say: Callable[[str], None]
) -> None:
    """Start both, say where they are, and wait; Ctrl-C or SIGTERM ends them.

    Args:
        study: Open; it may be running elsewhere.
        tensorboard_port: 0 for any that is free.
        optuna_port: Likewise.
        say: Told the addresses, and what is missing.

    Raises:
        DashboardError: A port is taken, or a dashboard does not start, or ends by itself.
    """
    from search.drive.session import end_on_signals

    end_on_signals()
    boards: list[Board] = []
    with tempfile.TemporaryDirectory(prefix="fashion-search-dashboard-") as name:
        try:
            port = _port(tensorboard_port)
            boards.append(
                _start("TensorBoard", "/", port, Path(name), _tensorboard, str(study.folder))
            )
            if importlib.util.find_spec("optuna_dashboard") is None:
                say('optuna-dashboard is not installed; pip install -e ".[dashboard]" brings it')
            else:
                port = _port(optuna_port, taken=port)
                # Optuna's own number of the study: a server's database may hold several.
                path = f"/dashboard/studies/{study.optuna._study_id}"
                url = storage_url(study.folder, study.config.storage)
                boards.append(_start("optuna-dashboard", path, port, Path(name), _optuna, url))
            _await(boards)
            for board in boards:
                say(f"{board.name:<17} {board.url}")
            say("Ctrl-C ends " + ("both" if len(boards) > 1 else "it"))
            while True:
                time.sleep(0.5)
                for board in boards:
                    board.check()
        except KeyboardInterrupt:
            say("stopped")
        finally:
            _end(boards)


def storage_url(folder: Path, url: str | None) -> str:
    """Return the address of a study's database for Optuna, to read only.

    Dashboards can rename and delete; what a study recorded is not theirs to change. No password is
    in it: PostgreSQL takes that from PGPASSWORD or ~/.pgpass.
    """
    if url is None:
        return f"sqlite:///file:{quote(str(folder / 'study.db'))}?mode=ro&uri=true"
    joint = "&" if "?" in url else "?"
    driver = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return f"{driver}{joint}options=-c%20default_transaction_read_only%3Don"


def _start(
    name: str, path: str, port: int, logs: Path, run: Callable[..., None], what: str
) -> Board:
    log = logs / f"{name}.log"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_child, args=(log, run, port, what), name=name, daemon=True)
    with signals_to_parent_only():
        process.start()
    url = f"http://{HOST}:{port}{path}"
    return Board(name=name, url=url, port=port, process=process, log=log)


def _child(log: Path, run: Callable[[int, str], None], port: int, what: str) -> None:
    end_with_parent()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    run(port, what)


def _tensorboard(port: int, folder: str) -> None:
    sys.argv = ["tensorboard", f"--logdir={folder}", f"--host={HOST}", f"--port={port}"]
    main: Any = importlib.import_module("tensorboard.main")
    main.run_main()


def _optuna(port: int, url: str) -> None:
    dashboard: Any = importlib.import_module("optuna_dashboard")
    server = make_server(
        HOST, port, dashboard.wsgi(url), server_class=_Threads, handler_class=_Silent
    )
    server.serve_forever()


class _Threads(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


def _port(wanted: int, taken: int = 0) -> int:
    """Return a port that is free now: the one that is wanted, or any."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if wanted and wanted == taken:
                raise OSError
            trial.bind((HOST, wanted))
        except OSError:
            raise DashboardError(
                f"port {wanted} is taken; give another, or 0 for any that is free"
            ) from None
        return int(trial.getsockname()[1])


def _await(boards: Sequence[Board]) -> None:
    until = time.monotonic() + READY_SECONDS
    for board in boards:
        while not board.answers():
            board.check()
            if time.monotonic() > until:
                raise DashboardError(f"{board.name} does not answer after {READY_SECONDS:.0f} s")
            time.sleep(0.1)


def _end(boards: Sequence[Board]) -> None:
    for board in boards:
        board.process.terminate()
    for board in boards:
        board.process.join(_LEAVE_SECONDS)
        if board.process.exitcode is None:
            board.process.kill()
            board.process.join()
