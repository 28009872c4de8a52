"""A headless Chromium, spoken to over the DevTools protocol through two pipes."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "about:blank",
]
_PATIENCE = 120  # seconds for one answer: a machine may be busy

# What reaches beyond the window, unless a box that scrolls or clips holds it.
_MEASURE = """(() => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  const width = document.documentElement.clientWidth, beyond = [];
  const held = (element) => {
    for (let box = element.parentElement; box; box = box.parentElement) {
      const way = getComputedStyle(box).overflowX;
      if (box !== document.body && box !== document.documentElement && way !== "visible")
        return box.getBoundingClientRect().right <= width + 0.5;
    }
    return false;
  };
  for (const element of document.body.querySelectorAll("*")) {
    const box = element.getBoundingClientRect();
    if ((box.right > width + 0.5 || box.left < -0.5) && !held(element))
      beyond.push(`${element.tagName} ${element.className} ${Math.round(box.right)}`);
  }
  const images = [...document.images];
  return {
    width: innerWidth,
    scrolled: document.documentElement.scrollWidth,
    beyond,
    broken: images.filter((image) => !(image.complete && image.naturalWidth)).length,
    images: images.length,
    text: document.body.innerText,
  };
})()"""

_ACCESSIBLE = """axe.run().then(({violations}) => violations
  .filter(({impact}) => impact === "serious" || impact === "critical")
  .map(({id, nodes}) => `${id}: ${nodes[0].html.slice(0, 120)}`))"""


def find() -> str | None:
    """The path of a Chromium, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@dataclass
class Seen:
    """What a browser saw of a page at one width."""

    width: int
    scrolled: int
    beyond: list[str]
    broken: int
    images: int
    text: str
    complaints: list[str] = field(default_factory=list)  # on the console, or uncaught
    requests: list[str] = field(default_factory=list)  # but for the page itself and what it holds
    picture: bytes = b""


class Chromium:
    """A browser, for as long as a ``with`` block lasts."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> Chromium:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        # The protocol is spoken on descriptors 3 and 4, wherever the pipes are.
        redirect = f'exec "$@" 3<&{to_child} 4>&{from_child}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "-", self._path, f"--user-data-dir={self._profile}", *_QUIET],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._buffer, self._count = b"", 0
        self._events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        attach = {"targetId": target, "flatten": True}
        self._session = self._ask("Target.attachToTarget", attach)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        shutil.rmtree(self._profile, ignore_errors=True)

    def look(self, page: Path, width: int, *, picture: bool = False) -> Seen:
        """Opens a file in a window of that width."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", metrics)
        self._events.clear()
        self._ask("Page.navigate", {"url": page.as_uri()})
        self._until("Page.loadEventFired")
        asked = {"expression": _MEASURE, "returnByValue": True}
        seen = Seen(**self._ask("Runtime.evaluate", asked)["result"]["value"])
        if picture:
            whole = {"captureBeyondViewport": True, "format": "png"}
            size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
            whole["clip"] = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
            seen.picture = base64.b64decode(self._ask("Page.captureScreenshot", whole)["data"])
        for event in self._events:
            told = event["params"]
            match event["method"]:
                case "Runtime.exceptionThrown":
                    seen.complaints.append(str(told["exceptionDetails"].get("text")))
                case "Runtime.consoleAPICalled":
                    seen.complaints.append(f"console.{told['type']}")
                case "Log.entryAdded":
                    seen.complaints.append(told["entry"]["text"])
                case "Network.requestWillBeSent":
                    url = told["request"]["url"]
                    if url != page.as_uri() and not url.startswith("data:"):
                        seen.requests.append(url)
        return seen

    def sheets(self) -> int:
        """How many sheets of paper the page takes that was looked at last."""
        printed = self._ask("Page.printToPDF", {"preferCSSPageSize": True})["data"]
        return len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(printed)))

    def violations(self, axe: str) -> list[str]:
        """What axe-core, given as its source, finds serious or critical in that page."""
        self._ask("Runtime.evaluate", {"expression": axe})
        asked = {"expression": _ACCESSIBLE, "awaitPromise": True, "returnByValue": True}
        return list(self._ask("Runtime.evaluate", asked)["result"]["value"])

    def _ask(self, method: str, params: dict[str, Any] | None = None) -> Any:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params or {}}
        if not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._next(lambda told: told.get("id") == self._count)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _until(self, method: str) -> None:
        if all(event["method"] != method for event in self._events):
            self._next(lambda told: told.get("method") == method)

    def _next(self, wanted: Any) -> dict[str, Any]:
        """Reads up to the message wanted; keeps the events on the way."""
        end = time.monotonic() + _PATIENCE
        while True:
            while b"\0" not in self._buffer:
                ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
                chunk = os.read(self._read, 2**20) if ready else b""
                if not chunk:
                    raise RuntimeError("Chromium: no answer")
                self._buffer += chunk
            line, _, self._buffer = self._buffer.partition(b"\0")
            told = json.loads(line)
            if "method" in told:
                self._events.append(told)
            if wanted(told):
                return told
