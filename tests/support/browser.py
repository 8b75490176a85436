"""A headless Chromium without a network, driven by its DevTools protocol, for tests that look at pages."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

PLACES = os.environ["PATH"] + os.pathsep + "/usr/lib/chromium"
CHROMIUM = next(
    filter(None, (shutil.which(name, path=PLACES) for name in ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--hide-scrollbars"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
# No name is found, so nothing but this machine's own address and its files can be reached.
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-allow-origins=*"]
PATIENCE = 120  # seconds for any answer


class Page:
    """One tab.

    Attributes:
      errors: what the console has shown as an error since the last `goto`.
      requests: addresses that were asked for since the last `goto`.
    """

    def __init__(self, address: str):
        self.socket = websocket.create_connection(address, timeout=PATIENCE)
        self.numbers = itertools.count(1)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)  # without the focus nothing can be copied

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what an event says."""
        method, about = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"] + " " + about["entry"].get("url", ""))
        elif method == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.errors.append(" ".join(str(each.get("value", each.get("description"))) for each in about["args"]))

    def goto(self, address: str) -> None:
        """Open an address, and wait until it is loaded and MathJax has typeset all formulas."""
        self.errors, self.requests, self.loaded = [], [], False
        self.send("Page.navigate", url=address)
        self.wait(lambda: self.loaded)
        self.evaluate("window.MathJax && MathJax.startup && MathJax.startup.promise.then(() => true)")

    def wait(self, done, seconds: float = PATIENCE) -> None:
        """Wait until `done` returns a true value."""
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, "nothing came in time"
            self.evaluate("new Promise(done => setTimeout(done, 20))")

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression, and wait for it if it is a promise."""
        found = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key, by its name and its number in the protocol, as Tab and 9."""
        text = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window in CSS pixels, and whether the reader prefers dark pages."""
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}  # no colour is looked at while it changes
        self.send("Emulation.setEmulatedMedia", features=[scheme, still])

    def screenshot(self, path: Path) -> None:
        """Save what the window shows as a PNG file."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def page() -> Iterator[Page]:
    """Start Chromium, and stop it afterwards."""
    assert CHROMIUM, "Chromium is missing"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [CHROMIUM, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            found, until = Path(folder, "DevToolsActivePort"), time.monotonic() + PATIENCE
            while not found.exists() or len(found.read_text().splitlines()) < 2:
                assert process.poll() is None and time.monotonic() < until, "Chromium did not start"
                time.sleep(0.1)
            port = found.read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            yield Page(tabs[0]["webSocketDebuggerUrl"])
        finally:
            process.terminate()
            process.wait(PATIENCE)
