"""One image out of an HTTP request, in any of the forms that `serve` takes, within its limits."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from data.folder import decode_image
from data.images import DataError, ImageShape
from data.one_line import OneLineError

MAX_BYTES = 10_000_000
"""Of a request's body."""
MAX_PIXELS = 25_000_000
"""Of a picture."""
MAX_SECONDS = 30.0
"""Within which a body must have come."""
MAX_HELD = 256_000_000
"""Bytes of all bodies that are held at a time."""
MAX_UNPACKED = 2
"""Pictures that are unpacked at a time: each may take 16 bytes a pixel meanwhile."""


class Refused(OneLineError):
    """A request that gets no answer: one line, and the HTTP status that says whose fault it is."""

    def __init__(self, status: int, message: str) -> None:
        """Take the status (400 to 599) and the line."""
        super().__init__(message)
        self.status = status


class Uploads:
    """Read requests, and hold no more than is allowed at a time."""

    def __init__(self, shape: ImageShape) -> None:
        """Read images of the model's `shape`."""
        self._shape = shape
        self._held = 0
        self._unpacking = asyncio.Semaphore(MAX_UNPACKED)

    async def read(self, request: Request) -> NDArray[np.uint8]:
        """Return the image (C, H, W) of a request.

        Raises:
            Refused: It holds none, or more than is allowed.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(MAX_SECONDS):
                await self._fill(body, request)
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            unpack = pixels_of if kind == "application/json" else _decode
            async with self._unpacking:
                content = bytes(body)
                if kind == "multipart/form-data":
                    content = await _file_of(request, content)
                return await asyncio.to_thread(unpack, content, self._shape)
        except MemoryError:
            raise Refused(503, "there is no memory for the picture; try again later") from None
        except TimeoutError:
            raise Refused(408, f"the picture did not come within {MAX_SECONDS:.0f} s") from None
        finally:
            self._held -= len(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        too_large = f"the request has more than {MAX_BYTES:,} bytes; send a smaller picture"
        said = request.headers.get("content-length", "")
        if said.isdecimal() and len(said) < 20 and int(said) > MAX_BYTES:
            raise Refused(413, too_large)
        async for chunk in request.stream():
            if len(body) + len(chunk) > MAX_BYTES:
                raise Refused(413, too_large)
            if self._held + len(chunk) > MAX_HELD:
                raise Refused(503, "too many pictures come at once; try again in a moment")
            body += chunk
            self._held += len(chunk)


def pixels_of(body: bytes, shape: ImageShape) -> NDArray[np.uint8]:
    """Return the image (C, H, W) of JSON: {"pixels": [...]}, values 0 to 255 row by row.

    The lists may be nested as rows, or as channels of rows, or not at all. Raises Refused.
    """
    size = (shape.channels, shape.height, shape.width)
    number = int(np.prod(size))
    wanted = f'JSON must be {{"pixels": [...]}} with {number} whole numbers from 0 to 255'
    try:
        values = json.loads(body)["pixels"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(400, f"{wanted}, channel by channel and row by row") from None
    # Not by NumPy: of one long text among numbers it would make as many as long.
    shape_of: tuple[int, ...] = ()
    flat: list[Any] = [values]
    while len(shape_of) < 3 and flat and type(flat[0]) is list:
        length = len(flat[0])
        if any(type(part) is not list or len(part) != length for part in flat):
            raise Refused(400, f"{wanted} (image {size}); these are of rows of several lengths")
        shape_of += (length,)
        if len(flat) * length > number:
            break
        flat = [value for part in flat for value in part]
    if shape_of not in (size, size[1:], (number,)):
        raise Refused(400, f"{wanted} (image {size}); these are of shape {shape_of}")
    if any(type(value) is not int or not 0 <= value <= 255 for value in flat):
        raise Refused(400, f"{wanted}; one of these is none")
    return np.array(flat, np.uint8).reshape(size)


def _decode(content: bytes, shape: ImageShape) -> NDArray[np.uint8]:
    if not content:
        raise Refused(400, "there is no picture in the request; send a PNG or JPEG file")
    try:
        return decode_image(io.BytesIO(content), "the picture", shape, max_pixels=MAX_PIXELS)
    except DataError as error:
        raise Refused(400, str(error).removesuffix("; replace or remove it")) from None


async def _file_of(request: Request, body: bytes) -> bytes:
    """Return the one file of a form that was read already."""

    async def again() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, again).form(max_files=1, max_fields=8) as form:
            files: list[Any] = [part for part in form.values() if isinstance(part, UploadFile)]
            if not files:
                raise Refused(400, "the form holds no file; send one as the field `image`")
            return bytes(await files[0].read())
    except HTTPException as error:
        raise Refused(400, f"the form cannot be read ({error.detail}); send one file") from None
