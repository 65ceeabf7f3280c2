"""A headless Chromium, driven over its DevTools protocol through a pair of pipes: no driver, no further package."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60
SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # which the superuser of a container cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "about:blank",
)


def find():
    """The path of a Chromium, None if the machine has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser with one tab. `events` are all that it has told, as (name, parameters)."""

    def __init__(self, path, home):
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()

        def hand_over():  # the protocol's pipes are 3 and 4
            ends = [os.dup(end) for end in (to_child, from_child)]
            high = [os.dup2(end, number) for end, number in zip(ends, (63, 64))]
            for end, number in zip(high, (3, 4)):
                os.dup2(end, number)

        self._process = subprocess.Popen(
            [path, *SWITCHES[:-1], f"--user-data-dir={home}", SWITCHES[-1]],
            preexec_fn=hand_over,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._left, self._numbers, self.events, self._session = b"", itertools.count(1), [], None
        targets = self.call("Target.getTargets")["targetInfos"]
        (page,) = (target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """What the browser answers to a command of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == number:
                assert "error" not in told, told["error"]
                return told["result"]

    def open(self, path, width=1280, height=900, dark=False):
        """Load a file, in a window of this size; `events` begin anew."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(name == "Page.loadEventFired" for name, _ in self.events):
            self._next()

    def run(self, script):
        """The value of an expression on the page."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def press(self, key, code):
        """A key, down and up."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **typed)

    def screenshot(self, path, whole=False):
        """The window as a PNG file, or the whole page."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))

    def complaints(self):
        """What the page wrote to the console, and what went wrong on it."""
        self.run("0")  # so that all that was told before is here
        names = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [told for name, told in self.events if name in names]

    def requests(self):
        """The addresses that were asked for, but for what the page brings along."""
        self.run("0")
        asked = [told["request"]["url"] for name, told in self.events if name == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith("data:")]

    def close(self):
        self._process.terminate()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def _next(self):
        """The next message; an event is kept."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            read = os.read(self._in, 1 << 16) if ready else b""
            assert read, "Chromium does not answer"
            self._left += read
        message, _, self._left = self._left.partition(b"\0")
        told = json.loads(message)
        if "method" in told:
            self.events.append((told["method"], told["params"]))
        return told
