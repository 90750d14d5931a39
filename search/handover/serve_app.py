"""What `serve` answers: POST /predict, GET /model, GET /health, and a page at GET /."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from data.one_line import one_line
from model.exported import ExportedModel
from model.seal import Look, seal_in_words
from search.handover.predict import bright_edged, top_classes
from search.handover.serve_batch import Batcher
from search.handover.serve_upload import MAX_BYTES, MAX_PIXELS, Refused, Uploads

_PAGE = Path(__file__).with_name("serve_page.html")
_YES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_PORT = re.compile(r":\d*\Z")
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # One file: whatever a class may be called, nothing is loaded and nothing is sent elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src"
    " 'unsafe-inline'; img-src data: blob:; connect-src 'self'; form-action 'none';"
    " base-uri 'none'; frame-ancestors 'none'",
}


def make_app(
    model: ExportedModel, *, max_batch: int, max_wait_ms: float, hosts: frozenset[str] | None = None
) -> Starlette:
    """Return the application that answers with `model`.

    Args:
        model: Checked and open.
        max_batch: Images answered in one call, at most.
        max_wait_ms: Milliseconds that an image waits for others.
        hosts: Names, in lower case, by which it may be called; None for any. A page from elsewhere
            can have its own name point to this machine, and would then read the answers.
    """
    server = _Server(model, Batcher(model.logits, max_batch=max_batch, max_wait_ms=max_wait_ms))

    @asynccontextmanager
    async def while_it_serves(_: Starlette) -> AsyncIterator[None]:
        async with server.batcher:
            yield

    return Starlette(
        lifespan=while_it_serves,
        middleware=[] if hosts is None else [Middleware(_KnownHosts, hosts=hosts)],
        routes=[
            Route("/", server.page),
            Route("/predict", server.predict, methods=["POST"]),
            Route("/model", server.model_card),
            Route("/health", server.health),
        ],
        exception_handlers={
            Refused: _refused,
            HTTPException: _refused,
            ClientDisconnect: _refused,
        },
    )


class _KnownHosts:
    """Let in only what calls this server by one of its names, at whatever port."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = Headers(scope=scope).get("host", "").lower()
            if _PORT.sub("", given) not in self._hosts:
                told = f"this server is not {given[:100]!r}; call it by its address, or localhost"
                await JSONResponse({"error": told}, status_code=421)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Server:
    def __init__(self, model: ExportedModel, batcher: Batcher) -> None:
        self._model, self.batcher = model, batcher
        self._uploads = Uploads(model.shape)
        self._began = time.monotonic()
        self._page = _PAGE.read_text(encoding="utf-8")

    async def page(self, _: Request) -> Response:
        return HTMLResponse(self._page, headers=_SAFE)

    async def health(self, _: Request) -> Response:
        return JSONResponse(
            {
                "status": "ok",
                "seconds": round(time.monotonic() - self._began, 1),
                "images": self.batcher.images,
                "batches": self.batcher.batches,
                "largest_batch": self.batcher.largest,
            }
        )

    async def model_card(self, _: Request) -> Response:
        return JSONResponse(facts_of(self._model))

    async def predict(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except (Refused, HTTPException, ClientDisconnect):
            raise  # told in _refused
        except Exception as error:  # handled above, it would be printed with its traceback too
            told = one_line(f"the model gave no answer: {error}")
            return JSONResponse({"error": told[:500]}, status_code=500)

    async def _answer(self, request: Request) -> Response:
        began = time.perf_counter()
        top = _number(request, "top", default=5, most=len(self._model.classes))
        invert, seen = _flag(request, "invert"), _flag(request, "seen")
        pixels = await self._uploads.read(request)
        if invert:
            pixels = 255 - pixels
        logits, together = await self.batcher.answer(pixels)
        classes, shares = top_classes(logits[None], top)
        rows = [
            {"label": self._model.classes[k], "probability": float(share)}
            for k, share in zip(classes[0], shares[0], strict=True)
        ]
        answer = rows[0] | {
            "top": rows,
            "batch": together,
            "milliseconds": round(1000 * (time.perf_counter() - began), 2),
            "model": self._model.sha256,
        }
        if self._model.ground == "dark" and bright_edged(pixels[None])[0]:
            answer["note"] = (
                "bright at the edges; the model knows garments bright on dark: try invert="
                f"{'false' if invert else 'true'}"
            )
        if seen:
            answer["seen"] = _as_png(pixels)
        return JSONResponse(answer)


def facts_of(model: ExportedModel) -> dict[str, Any]:
    """Return what GET /model says (JSON values): what it is, how good, how fast, its limits."""
    facts, shape = model.facts, model.shape
    evaluation = facts.get("evaluation") or {}
    provenance = facts.get("provenance") or {}
    return {
        "study": provenance.get("study"),
        "trial": provenance.get("trial"),
        "data": provenance.get("data"),
        "caution": provenance.get("caution"),
        "sha256": model.sha256,
        "classes": list(model.classes),
        "image": {"channels": shape.channels, "height": shape.height, "width": shape.width},
        "ground": model.ground,
        "parameters": facts.get("parameters"),
        "accuracy": evaluation.get("accuracy"),
        "ci95": evaluation.get("ci95"),
        "test_images": evaluation.get("num_images"),
        "looks": facts.get("looks"),
        "test_images_opened": seal_of(facts),
        "latency": facts.get("latency"),
        "limits": {"bytes": MAX_BYTES, "pixels": MAX_PIXELS},
    }


def seal_of(facts: dict[str, Any]) -> str | None:
    """Return how often the test images were opened; None where no look is known."""
    looks = [Look(**row) for row in facts.get("looks") or ()]
    return seal_in_words(looks) if looks else None


def _as_png(pixels: NDArray[np.uint8]) -> str:
    """Return an image (C, H, W) as the address of a PNG picture."""
    from PIL import Image

    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _number(request: Request, name: str, *, default: int, most: int) -> int:
    given = request.query_params.get(name)
    if given is None:
        return min(default, most)
    if not (given.isascii() and given.isdecimal() and len(given) < 7 and int(given) >= 1):
        raise Refused(400, f"`{name}` is {given!r}, but must be a whole number from 1 on")
    return min(int(given), most)


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "false").lower()
    if given not in _YES:
        raise Refused(400, f"`{name}` is {given!r}, but must be true or false")
    return _YES[given]


_Handler = Callable[[Request, Exception], Awaitable[Response]]


async def _refused(_: Request, error: Exception) -> Response:
    status, told = 400, "the request was broken off"
    headers: dict[str, str] = {}
    if isinstance(error, Refused):
        status, told = error.status, str(error)
        headers = {"Retry-After": "1"} if status == 503 else {}
    elif isinstance(error, HTTPException):
        status, headers = error.status_code, dict(error.headers or {})
        told = f"{error.detail}; there are POST /predict, GET /model, GET /health and GET /"
    return JSONResponse({"error": told}, status_code=status, headers=headers)
