"""A headless Chromium that opens a page and tells what it saw: errors, refusals of the policy, requests, pictures.

It is spoken to in the DevTools protocol over its own pipe, JSON messages that end in a zero byte
(https://chromedevtools.github.io/devtools-protocol/), so no port is opened and no driver is needed.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PATIENCE = 30.0  # seconds for one answer


class Chromium:
    """One browser; `with Chromium(folder) as browser, browser.open(path) as tab: ...`."""

    def __init__(self, profile: Path) -> None:
        command_read, self._to = os.pipe()
        self._from, answer_write = os.pipe()
        self._process = subprocess.Popen(
            # The browser reads descriptor 3 and writes 4, whatever numbers the pipes have here. Root has no sandbox.
            ["bash", "-c", f'exec "$@" 3<&{command_read} 4>&{answer_write}', "bash", str(PROGRAM)]
            + ["--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
            + ["--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
            + ["--hide-scrollbars", "about:blank"],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._from, selectors.EVENT_READ)
        self._numbers = itertools.count(1)
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        os.close(self._to)  # the browser leaves when nobody speaks to it any more
        os.close(self._from)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def open(self, path: Path, before: str = "", **looks: Any) -> Iterator[Tab]:
        """A new tab with the page of a file, loaded. looks: see `Tab.look`, asked for before the page is there.

        before: JavaScript that runs before anything of the page does.
        """
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.ask(f"{domain}.enable")
        tab.look(**looks)
        tab.ask("Page.addScriptToEvaluateOnNewDocument", source=before)
        tab.ask("Page.navigate", url=path.resolve().as_uri())
        tab.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")
        yield tab
        self.ask("Target.closeTarget", targetId=target)

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _PATIENCE
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"Chromium did not answer {method}")
            chunk = os.read(self._from, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium has gone")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


class Tab:
    """One page in the browser."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.ask(method, self._session, **params)

    def look(
        self, width: int = 1280, height: int = 900, dark: bool = False, calm: bool = False, scripts: bool = True
    ) -> None:
        """Size in CSS pixels, colour scheme, whether motion is to be reduced, whether scripts run."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"},
        ]
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.ask("Emulation.setScriptExecutionDisabled", value=not scripts)

    def value(self, expression: str) -> Any:
        """What JavaScript makes of an expression, promises awaited."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['text']}")
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not self.value(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never came true: {condition}")
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """A key by its DOM name, such as "ArrowRight", "Tab" or " "."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        named = {"key": key, "code": "Space" if key == " " else key}
        codes = {" ": 32, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Enter": 13}
        code = {"windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
        self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **named, **code)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **named, **code)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """PNG of the page, from top to bottom or as far as the window shows it."""
        path.write_bytes(b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))

    def complaints(self) -> list[str]:
        """Everything that went wrong: exceptions, console errors, what the policy refused or could not be loaded."""
        self.value("0")  # what happened until now has been told before the answer
        found = []
        for event in self._events():
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(str(params["args"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """What was asked for beside the page itself and what lies in it."""
        self.value("0")
        sent = [event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")]
        return [url for url in sent[1:] if not url.startswith("data:")]

    def _events(self, method: str | None = None) -> list[dict[str, Any]]:
        mine = (event for event in self._browser.events if event.get("sessionId") == self._session)
        return [event for event in mine if method in (None, event["method"])]
