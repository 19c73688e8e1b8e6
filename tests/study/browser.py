"""Drives Chromium by its own protocol: keys, pages, screenshots, requests."""

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

from websockets.sync.client import connect

PATH = next(
  filter(None, map(shutil.which, ("chromium", "google-chrome"))), None
)
# What a browser calls a key, besides what it types.
_CODES = {"Enter": 13, "Backspace": 8, "Tab": 9, " ": 32}


class Browser:
  """One page of a browser; `requests` are the addresses that it asked for."""

  def __init__(self, socket):
    self._socket, self._number = socket, 0
    self.requests, self.problems, self.dialogs = [], [], []
    for domain in ("Page", "Network", "Runtime", "Log"):
      self.call(f"{domain}.enable")

  def call(self, method, **params):
    """Calls a method of the protocol; returns its result."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": params}
    self._socket.send(json.dumps(message))
    while True:
      found = json.loads(self._socket.recv(timeout=60))
      if found.get("id") == self._number:
        assert "error" not in found, found
        return found.get("result", {})
      self._event(found)

  def _event(self, found):
    params = found.get("params", {})
    match found.get("method"):
      case "Network.requestWillBeSent":
        self.requests.append(params["request"]["url"])
      case "Runtime.exceptionThrown" | "Log.entryAdded":
        self.problems.append(json.dumps(params))
      case "Page.javascriptDialogOpening":
        self.dialogs.append(params["message"])

  def evaluate(self, expression):
    """Returns the value of JavaScript."""
    found = self.call(
      "Runtime.evaluate",
      expression=expression,
      returnByValue=True,
      awaitPromise=True,
    )
    assert "exceptionDetails" not in found, found
    return found["result"].get("value")

  def open(self, url):
    self.call("Page.navigate", url=url)

  def reload(self):
    self.call("Page.reload")

  def wait(self, expression, seconds=30):
    """Waits until JavaScript is true."""
    end = time.monotonic() + seconds
    while True:
      # While a page is being left there is nothing to ask.
      with contextlib.suppress(AssertionError):
        if self.evaluate(expression):
          return
      assert time.monotonic() < end, (expression, self.text(), self.problems)
      time.sleep(0.02)

  def text(self):
    return self.evaluate("document.body.innerText")

  def wait_for(self, text):
    self.wait(f"document.body.innerText.includes({json.dumps(text)})")

  def press(self, key):
    """Presses and lets go of a key."""
    typed = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
    code = _CODES.get(key, ord(key[0]))
    common = {"key": key, "windowsVirtualKeyCode": code}
    self.call("Input.dispatchKeyEvent", type="keyDown", text=typed, **common)
    self.call("Input.dispatchKeyEvent", type="keyUp", **common)

  def tap(self, selector):
    """Taps the middle of an element, as a finger does."""
    x, y = self.evaluate(
      f"(() => {{ const r = document.querySelector({json.dumps(selector)})"
      ".getBoundingClientRect();"
      " return [r.x + r.width / 2, r.y + r.height / 2] })()"
    )
    point = [{"x": x, "y": y}]
    self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=point)
    self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

  def screen(self, width, height, phone=False):
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=2 if phone else 1,
      mobile=phone,
    )
    self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

  def picture(self, path):
    """Saves what is to be seen."""
    data = self.call("Page.captureScreenshot", format="png")["data"]
    pathlib.Path(path).write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def open_browser():
  """Yields a fresh browser, which remembers nothing of others."""
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    process = subprocess.Popen(
      [
        PATH,
        "--headless",
        "--no-sandbox",  # tests may run as root, in a container
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
      ],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      env={**os.environ, "HOME": profile},
    )
    try:
      port = _port(process)
      with _page(port) as socket:
        yield Browser(socket)
    finally:
      process.terminate()
      process.wait(timeout=30)
      process.stderr.close()


def _port(process):
  for line in process.stderr:
    if found := re.search(r"DevTools listening on ws://[^:]+:(\d+)/", line):
      return int(found[1])
  raise AssertionError("the browser did not start")


def _page(port):
  from urllib.request import urlopen

  end = time.monotonic() + 30
  while time.monotonic() < end:
    with urlopen(f"http://127.0.0.1:{port}/json/list") as reply:
      pages = [x for x in json.load(reply) if x["type"] == "page"]
    if pages:
      return connect(pages[0]["webSocketDebuggerUrl"], max_size=None)
    time.sleep(0.05)
  raise AssertionError("the browser has no page")
