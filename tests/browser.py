"""A real Chromium for tests, driven over its DevTools protocol: no further dependency, no fixed sleep.

Every condition is polled in the page; what never comes true fails with what the page shows instead.
"""

import asyncio
import base64
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)
POLL_SECONDS = 0.05
UNTIL_SECONDS = 120.0
SPOT = """
(selector) => {
  const element = document.querySelector(selector);
  const box = element.getBoundingClientRect();
  const spot = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  return !element.disabled && element.contains(document.elementFromPoint(spot.x, spot.y)) ? spot : null;
}"""


class Page:
    """One tab. `complaints` are its uncaught errors and whatever the Content-Security-Policy refused."""

    def __init__(self, socket: ClientConnection) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._ids = count(1)
        self._session: dict[str, str] = {}

    async def attach(self) -> None:
        context = await self.call("Target.createBrowserContext", disposeOnDetach=True)
        target = await self.call("Target.createTarget", url="about:blank", **context)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "DOM"):
            await self.call(f"{domain}.enable")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command at a time."""
        number = next(self._ids)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params, **self._session}))
        while (message := json.loads(await self._socket.recv())).get("id") != number:
            self._note(message)
        assert "error" not in message, f"{method}: {message['error']}"
        result: dict[str, Any] = message["result"]
        return result

    def _note(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.complaints.append(details.get("exception", details).get("description", details["text"]))
            case "Log.entryAdded" if message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"]["text"])

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited, as if a person had just clicked."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str) -> Any:
        """The first value of the expression that is true. Raises AssertionError with what the page shows instead."""
        try:
            async with asyncio.timeout(UNTIL_SECONDS):
                while not (value := await self.run(condition)):
                    await asyncio.sleep(POLL_SECONDS)
                return value
        except TimeoutError:
            shown = await self.run("document.body.innerText")
            raise AssertionError(f"never true: {condition}\n{self.complaints}\n{shown}") from None

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    async def click(self, selector: str) -> None:
        """Where a person would: raises when something else covers it or it is out of sight."""
        spot = await self.run(f"({SPOT})({json.dumps(selector)})")
        assert spot, f"{selector} cannot be clicked"
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **spot)

    async def choose_file(self, selector: str, path: Path) -> None:
        root = await self.call("DOM.getDocument")
        node = await self.call("DOM.querySelector", nodeId=root["root"]["nodeId"], selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(path)])

    async def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the window, and which colours the reader prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self) -> bytes:
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


@contextmanager
def run_browser(profile: Path, *flags: str) -> Iterator[str]:
    """A Chromium of its own in the folder `profile`; yields the address of its DevTools. Its children end with it."""
    assert CHROMIUM is not None
    command = (CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, "about:blank")
    process = Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)
    try:
        yield _devtools(profile, process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@asynccontextmanager
async def open_tab(devtools: str) -> AsyncIterator[Page]:
    """An empty one that shares nothing with the others."""
    async with connect(devtools, max_size=None, compression=None, proxy=None) as socket:
        page = Page(socket)
        await page.attach()
        yield page


def _devtools(profile: Path, process: "Popen[bytes]") -> str:
    """Chromium writes port and path once it listens."""
    file = profile / "DevToolsActivePort"
    while not file.is_file() or len(lines := file.read_text().splitlines()) < 2:
        assert process.poll() is None, f"chromium ended with {process.returncode}"
        time.sleep(POLL_SECONDS)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
