"""Answer many requests at once: images that wait at the same time go through the model together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

Answered = tuple[NDArray[np.float32], int]
"""Logits (K,) of one image, and how many images were answered together."""


class Batcher:
    """Collect images for a few milliseconds, or until they are many; answer them in one call."""

    def __init__(
        self,
        answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        *,
        max_batch: int,
        max_wait_ms: float,
    ) -> None:
        """Prepare; enter it to begin.

        Args:
            answer: Images (N, C, H, W) uint8 to logits (N, K); called in a thread of its own.
            max_batch: Images in one call, at least 1.
            max_wait_ms: How long the first of a batch waits for others. While a batch is answered,
                the next ones wait anyhow.
        """
        self._answer, self._max_batch, self._max_wait = answer, max_batch, max_wait_ms / 1000
        self._waiting: asyncio.Queue[tuple[NDArray[np.uint8], asyncio.Future[Answered]]]
        self._waiting = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None
        self.images = 0
        """Answered so far."""
        self.batches = 0
        """Calls of the network so far."""
        self.largest = 0
        """Images of the largest call so far."""

    async def __aenter__(self) -> Batcher:
        """Begin to answer."""
        self._task = asyncio.create_task(self._work(), name="batcher")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End; nobody waits any more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown()

    async def answer(self, pixels: NDArray[np.uint8]) -> Answered:
        """Answer one image (C, H, W). Raises what the network raises."""
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((pixels, future))
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            collected = [await self._waiting.get()]
            until = loop.time() + self._max_wait
            with suppress(TimeoutError):
                while len(collected) < self._max_batch:
                    if self._waiting.empty() and loop.time() >= until:
                        break
                    async with asyncio.timeout_at(until):
                        collected.append(await self._waiting.get())
            # A client that has gone needs no answer.
            batch = [(pixels, future) for pixels, future in collected if not future.done()]
            if not batch:
                continue
            images = np.stack([pixels for pixels, _ in batch])
            try:
                logits = await loop.run_in_executor(self._thread, self._answer, images)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self.images += len(batch)
            self.batches += 1
            self.largest = max(self.largest, len(batch))
            for (_, future), row in zip(batch, logits, strict=True):
                if not future.done():
                    future.set_result((row, len(batch)))
