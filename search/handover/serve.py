"""An exported model behind a small HTTP server: loopback unless told, ended by Ctrl-C."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import numpy as np
import uvicorn

from data.one_line import OneLineError
from model.exported import ExportedModel
from search.handover.predict import top_classes
from search.handover.serve_app import make_app, seal_of

_BACKLOG = 1024
_LEAVE_SECONDS = 5  # for requests that are being answered when it ends


class ServeError(OneLineError):
    """Say in one line why nothing is served."""


def serve(
    model: ExportedModel,
    *,
    host: str,
    port: int,
    max_batch: int,
    max_wait_ms: float,
    say: Callable[[str], None],
) -> None:
    """Serve `model` until SIGINT (Ctrl-C) or SIGTERM; say where, once it answers.

    Args:
        model: Checked and open.
        host: Name or address of this machine to listen at.
        port: 0 for any that is free.
        max_batch: Images answered in one call, at most.
        max_wait_ms: Milliseconds that an image waits for others.
        say: Told where it serves, and that it has ended.

    Raises:
        ServeError: The port is taken, or the host is not this machine's.
        StudyError: The model answers not-a-number.
    """
    one = np.zeros((1, model.shape.channels, model.shape.height, model.shape.width), np.uint8)
    top_classes(model.logits(one), 1)  # the first answer is slow, and may be none
    listener = _listen(host, port)
    try:
        app = make_app(
            model, max_batch=max_batch, max_wait_ms=max_wait_ms, hosts=_hosts(host, listener)
        )
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=20,
            timeout_graceful_shutdown=_LEAVE_SECONDS,
        )
        signal.signal(signal.SIGTERM, _interrupt)  # the server passes it on when it has ended
        with suppress(KeyboardInterrupt):
            greeting = _greeting(model, host, listener)
            _Server(config, lambda: say("\n".join(greeting))).run(sockets=[listener])
    finally:
        listener.close()
    say("stopped")


class _Server(uvicorn.Server):
    """One that says so once it answers, and ends in good order on a signal."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With the protocol: asyncio sets TCP_NODELAY only where it is said, and every answer of
        # a kept connection would wait 40 ms without it.
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ServeError(f"--host {host} is no address of this machine ({error})") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ServeError(
            f"cannot listen at {host}, port {port} ({os.strerror(error.errno or 0)}); give another"
            " --port (0: any that is free), or a --host of this machine"
        ) from None
    return listener


def _hosts(host: str, listener: socket.socket) -> frozenset[str] | None:
    """Return by which names it may be called: on loopback those of this machine, else any."""
    place = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    if not place.is_loopback:
        return None
    own = f"[{place}]" if place.version == 6 else str(place)
    given = f"[{host.lower()}]" if ":" in host else host.lower()
    return frozenset({"localhost", "127.0.0.1", "[::1]", own, given})


def _greeting(model: ExportedModel, host: str, listener: socket.socket) -> list[str]:
    address, port = listener.getsockname()[:2]
    place = ipaddress.ip_address(address.partition("%")[0])
    shown = f"[{address}]" if place.version == 6 else address
    if place.is_unspecified:
        shown = "localhost"
    evaluation = model.facts.get("evaluation")
    opened = seal_of(model.facts)
    seal = f", opened {opened}" if opened else ""
    good = f" ({evaluation['accuracy']:.2%} of its test images right{seal})" if evaluation else ""
    name = (model.facts.get("provenance") or {}).get("study") or model.folder.name
    url = f"http://{shown}:{port}"
    lines = [
        f"serving {name}{good}: {url}",
        f"  open it to drop a picture on, or: curl -F image=@picture.png {url}/predict",
    ]
    if not place.is_loopback:
        lines.append(
            f"  whoever reaches this machine may ask it: --host {host} has no password and no TLS"
        )
    return [*lines, "  Ctrl-C ends it"]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
