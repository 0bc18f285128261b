"""Debian's chromium, told what to do by its DevTools protocol over a pair of pipes."""

import json
import os
import subprocess
import threading
from pathlib import Path

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless=new",
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
# It reads commands from descriptor 3 and writes answers to 4.
PIPES = 'exec "$@" 3<&0 4>&1 0</dev/null 1>&2'
# What a key is called, and what it types: `Input.dispatchKeyEvent` wants both.
NAMED_KEYS = {"Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
TYPED = {"Enter": "\r"}


class Browser:
    """A browser with one page, which has a folder of its own for all that it keeps."""

    def __init__(self, folder):
        self.downloads, self.events, self._number = folder / "downloads", [], 0
        self.downloads.mkdir()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(
            ["sh", "-c", PIPES, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
        # No answer may be waited for without end: what is killed is read to its end.
        self._end = threading.Timer(600, self._process.kill)
        self._end.start()
        self._session = None
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        where = {"behavior": "allow", "downloadPath": str(self.downloads), "eventsEnabled": True}
        self.ask("Browser.setDownloadBehavior", **where)
        self._session = session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self):
        self._session = None
        self.ask("Browser.close")
        self._process.communicate()
        self._end.cancel()

    def ask(self, method, **params):
        """Return what the browser answers to a command; events before it are kept."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        self._process.stdin.write(json.dumps(command).encode() + b"\0")
        self._process.stdin.flush()
        while True:
            message = self._read()
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def _read(self):
        content = bytearray()
        while (byte := self._process.stdout.read(1)) != b"\0":
            assert byte, "the browser ended"
            content += byte
        message = json.loads(content)
        if "method" in message:
            self.events.append(message)
        return message

    def wait_for(self, method, is_it=lambda params: True):
        """Return the parameters of an event that comes, or has come and was not waited for."""
        while True:
            for event in self.events:
                if event["method"] == method and is_it(event["params"]):
                    self.events.remove(event)
                    return event["params"]
            self._read()

    def open(self, path):
        self.ask("Page.navigate", url=path.as_uri())
        self.wait_for("Page.loadEventFired")

    def press(self, *keys):
        for key in keys:
            code = NAMED_KEYS.get(key) or ord(key.upper())
            typed = {} if key in NAMED_KEYS.keys() - TYPED.keys() else {"text": TYPED.get(key, key)}
            about = {"key": key, "windowsVirtualKeyCode": code}
            self.ask("Input.dispatchKeyEvent", type="keyDown", **about, **typed)
            self.ask("Input.dispatchKeyEvent", type="keyUp", **about)

    def click(self, selector):
        """Press the mouse's button in the middle of an element."""
        box = self.run(
            f"(b => [b.x + b.width / 2, b.y + b.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        at = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        self.ask("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def run(self, script):
        """Return the value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def download(self):
        """Return the text of the file that a download leaves, and take it away."""
        name = self.wait_for("Browser.downloadWillBegin")["suggestedFilename"]
        self.wait_for("Browser.downloadProgress", lambda params: params["state"] == "completed")
        path = self.downloads / name
        text = path.read_bytes().decode()
        path.unlink()
        return name, text

    def resize(self, width, height=800, dark=False):
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
