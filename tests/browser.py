"""Chromium for tests: a page opened, a file given to it, what it shows and what it complains of."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp


def browser() -> str | None:
    """Return the browser's program, if there is one here."""
    return shutil.which("chromium") or shutil.which("google-chrome")


class Page:
    """One tab, told what to do by the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Take the tab's socket."""
        self._socket, self._number = socket, 0
        self.complaints: list[str] = []

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method and return its result; errors of the page are noted on the way."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            told = await self._socket.receive_json(timeout=60)
            if told.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["params"]["exceptionDetails"]))
            if told.get("method") == "Log.entryAdded":
                self.complaints.append(told["params"]["entry"]["text"])
            if told.get("id") == self._number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result

    async def value(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        told = await self.do("Runtime.evaluate", expression=expression, awaitPromise=True)
        return told["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true there; return its value."""
        async with asyncio.timeout(60):
            while not (value := await self.value(expression)):
                await asyncio.sleep(0.05)
        return value

    async def choose(self, selector: str, file: Path) -> None:
        """Give a file to an input, as by its dialogue."""
        root = (await self.do("DOM.getDocument"))["root"]["nodeId"]
        node = await self.do("DOM.querySelector", nodeId=root, selector=selector)
        await self.do("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(file)])

    async def picture(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        told = await self.do("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))


async def opened(process: subprocess.Popen[bytes], profile: Path, url: str) -> tuple[Any, Page]:
    """Join a browser that starts, and open `url` in its tab; return the session to close."""
    ports = profile / "DevToolsActivePort"
    async with asyncio.timeout(60):
        while not (ports.is_file() and ports.read_text().count("\n")):
            assert process.poll() is None
            await asyncio.sleep(0.05)
    port = ports.read_text().splitlines()[0]
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        (tab,) = [tab for tab in await answer.json() if tab["type"] == "page"]
    page = Page(await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0))
    for part in ("Runtime", "Log", "Page", "DOM"):
        await page.do(f"{part}.enable")
    await page.do("Page.navigate", url=url)
    await page.until("document.readyState === 'complete'")
    return session, page


def command(profile: Path, width: int, height: int = 900) -> list[str]:
    """Return the command that starts it, with an empty profile and no window."""
    options = f"""--headless --no-sandbox --disable-gpu --disable-background-networking
        --no-first-run --remote-debugging-port=0 --user-data-dir={profile}
        --window-size={width},{height} about:blank"""
    return [str(browser()), *options.split()]
