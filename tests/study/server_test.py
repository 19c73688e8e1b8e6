"""A server in a process of its own, as it runs; and what it must withstand."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.study import server as server_lib
from genrec_jax.study.limits import RateLimit
from genrec_jax.study.vote_file import VoteFile
from tests.study import made
from tests.tools.process import ROOT


class Server:
  """Starts `study.py serve`, on one port, again and again."""

  def __init__(self, study):
    self.study, self.port = study, 0
    self.votes = study.path / "votes.jsonl"

  def start(self):
    self.process = subprocess.Popen(
      [
        sys.executable,
        str(ROOT / "tools/study.py"),
        "serve",
        f"--study={self.study.path}",
        f"--port={self.port}",
      ],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      cwd="/",
    )
    self.said = []
    for line in self.process.stdout:
      self.said.append(line)
      if found := re.search(r"serving http://127\.0\.0\.1:(\d+)/", line):
        self.port = int(found[1])
        # Read on: a full pipe would stop the server.
        self.reader = threading.Thread(
          target=self.said.extend, args=(self.process.stdout,)
        )
        self.reader.start()
        return
    raise AssertionError("".join(self.said))

  def kill(self):
    os.kill(self.process.pid, signal.SIGKILL)
    self.process.wait()
    self.reader.join()
    self.process.stdout.close()

  def ask(self, method, path, body=None, headers=None):
    """Returns the status, the headers and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
    with contextlib.closing(connection):
      connection.request(method, path, body, headers or {})
      reply = connection.getresponse()
      return reply.status, dict(reply.getheaders()), reply.read()

  def post(self, votes, **headers):
    body = json.dumps({"study": self.study.id, "votes": votes})
    kind = {"Content-Type": "application/json"}
    return self.ask("POST", "/votes", body, kind | headers)

  def raw(self, data):
    """Sends bytes as they are; returns what comes back."""
    with socket.create_connection(("127.0.0.1", self.port), timeout=30) as s:
      s.sendall(data)
      try:
        s.shutdown(socket.SHUT_WR)
      except OSError:
        return b""  # it has hung up by now
      found = b""
      with contextlib.suppress(ConnectionError):
        while part := s.recv(65536):
          found += part
      return found


@pytest.fixture
def server(tmp_path):
  found = Server(made.make_study(tmp_path))
  found.start()
  yield found
  found.kill()


def votes_of(study, rater, block=0):
  """Returns the votes of one rater."""
  questions = ("taste", "next", "made")
  return [
    {
      "id": f"{rater}-{task['id']}",
      "study": study.id,
      "task": task["id"],
      "session": rater,
      **dict.fromkeys(("prolific_pid", "study_id", "session_id"), ""),
      "answers": dict.fromkeys(questions, "left"),
      "copies": [],
      "milliseconds": dict.fromkeys(questions, 1000),
    }
    for task in study.tasks["blocks"][block]
  ]


def stored(server):
  """Returns the votes of a file, in which a kill may have left broken lines."""
  found = []
  for line in server.votes.read_text().splitlines():
    with contextlib.suppress(ValueError):
      found.append(json.loads(line))
  return found


def test_it_serves_the_site_with_strict_headers(server):
  site = server.study.path / "site"
  for path in sorted(site.rglob("*.*")):
    address = f"/{path.relative_to(site).as_posix()}"
    status, headers, body = server.ask("GET", address)
    assert status == 200
    assert body == path.read_bytes()
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers
    assert "Python" not in headers["Server"]
  status, _, body = server.ask("GET", "/?PROLIFIC_PID=1&STUDY_ID=2")
  assert (status, body) == (200, (site / "index.html").read_bytes())
  status, headers, body = server.ask("HEAD", "/tasks.json")
  assert (status, body) == (200, b"")
  assert int(headers["Content-Length"]) == (site / "tasks.json").stat().st_size


def test_votes_are_stored_once_and_said_without_addresses(server):
  votes = votes_of(server.study, "r1")
  for _ in range(2):
    status, _, body = server.post(votes)
    assert (status, json.loads(body)) == (200, {"stored": len(votes)})
  assert stored(server) == votes
  server.kill()
  said = "".join(server.said) + str(server.votes.read_text())
  assert "127.0.0.1" not in said.replace("http://127.0.0.1:", "")
  server.start()
  assert f"has {len(votes)}" in "".join(server.said)


def test_blocks_go_to_those_that_the_fewest_began(server):
  blocks = len(server.study.tasks["blocks"])
  server.post(votes_of(server.study, "r1", block=1))
  server.kill()
  server.start()  # which remembers whose votes it has
  given = [
    json.loads(server.ask("GET", "/block")[2])["block"]
    for _ in range(2 * blocks - 1)
  ]
  assert Counter([*given, 1]) == dict.fromkeys(range(blocks), 2)


def hostile(study):
  """Yields requests that must change and leak nothing, as bytes."""

  def request(method, path, body=b"", **headers):
    lines = {"Host": "127.0.0.1", **headers}
    if body and "Content-Length" not in headers:
      lines["Content-Length"] = len(body)
    head = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body

  good = json.dumps({"study": study.id, "votes": votes_of(study, "bad")})
  good = good.encode()
  kind = {"Content_Type": "application/json"}
  secrets = ("key.json", "study.json", "votes.jsonl", "site/../key.json")
  for name in secrets:
    for up in (
      "/../",
      "/images/../../",
      "/%2e%2e/",
      "/..%2f",
      "/%2e%2e%2f",
      "/..\\",
      "/images/..%5c..%5c",
      "//",
      "/./../",
      "/....//",
      "/%252e%252e/",
      "/images/%00../../",
      "/images//../../",
      "http://127.0.0.1/../",
      f"/{study.path}/",
      "file://",
    ):
      yield request("GET", up + name)
  for path in ("/etc/passwd", "//etc/passwd", "/proc/self/environ", "/images"):
    yield request("GET", path)
    yield request("HEAD", path)
  for method in (
    *("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"),
    *("MOVE", "COPY", "LOCK", "get", "POST\tX", "A" * 70_000),
  ):
    yield request(method, "/votes", good, **kind)
  for path in ("/", "/tasks.json", "/images/", "/votes/", "/votes?x", "/block"):
    yield request("POST", path, good, **kind)
  for body in (
    *(b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"\x00" * 100),
    *(b"[" * 100_000, b'{"votes":' * 9_000, b"{}" * 50, b"NaN"),
    b'{"study": 1, "votes": []}',
    json.dumps({"study": study.id, "votes": {}}).encode(),
    json.dumps({"study": study.id, "votes": [None]}).encode(),
    json.dumps({"study": study.id, "votes": [[]] * 201}).encode(),
    json.dumps({"study": study.id, "votes": [], "x": 1}).encode(),
  ):
    yield request("POST", "/votes", body, **kind)
  votes = votes_of(study, "bad")
  for field in votes[0]:
    for value in (None, 1, "", "../x", {}, [], "x" * 70_000, True):
      changed = [*votes[1:], {**votes[0], field: value}]
      if value == [] and field == "copies":
        continue  # no mark is a mark
      if value == "" and field in ("prolific_pid", "study_id", "session_id"):
        continue  # and no name of a site is none
      body = json.dumps({"study": study.id, "votes": changed}).encode()
      yield request("POST", "/votes", body, **kind)
  for origin in (
    *("null", "http://evil.example", "https://127.0.0.1.evil.example"),
    *("http://127.0.0.1:1", "file://"),
  ):
    yield request("POST", "/votes", good, Origin=origin, **kind)
    yield request("GET", "/tasks.json", Origin=origin)
  for host in ("evil.example", "", "127.0.0.1.evil.example", "[", "a b"):
    yield request("POST", "/votes", good, **{**kind, "Host": host})
    yield request("GET", "/block", **{"Host": host})
  for length in ("-1", "1e3", "99999999999999999999", "0x10", "", "500000"):
    yield request("POST", "/votes", good, Content_Length=length, **kind)
  yield request("POST", "/votes", good, Transfer_Encoding="chunked", **kind)
  yield request("POST", "/votes", good[:-9], Content_Length=len(good), **kind)
  for text in ("text/plain", "application/x-www-form-urlencoded", ""):
    yield request("POST", "/votes", good, Content_Type=text)
  for line in (
    *("GET", "GET /", "GET / HTTP/9.9", "GET / HTTP/x", "\x00\x01\x02"),
    *("GET /key.json HTTP/1.1 more", "POST /votes HTTP/1.0"),
  ):
    yield f"{line}\r\n\r\n".encode("latin-1")
  yield b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n"
  yield b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"


def test_hostile_requests_change_and_leak_nothing(server):
  good = votes_of(server.study, "r1")
  assert server.post(good)[0] == 200
  files = {
    path: path.read_bytes()
    for path in server.study.path.rglob("*.*")
    if path.is_file()
  }
  rules, key = (
    (server.study.path / name).read_bytes()[:200]
    for name in ("study.json", "key.json")
  )
  requests = list(hostile(server.study))
  assert len(requests) >= 200
  for data in requests:
    reply = server.raw(data)
    while b" 429 " in reply[:20]:  # the limit holds hostile senders, too
      time.sleep(0.3)
      reply = server.raw(data)
    assert b"key_sha256" not in reply, data[:200]
    assert b'"kind"' not in reply, data[:200]
    assert b"root:" not in reply, data[:200]
    assert b"Traceback" not in reply, data[:200]
    assert rules not in reply, data[:200]
    assert key not in reply, data[:200]
    if data.startswith(b"POST"):
      assert b" 200 " not in reply[:20], data[:200]
  now = {
    path: path.read_bytes()
    for path in server.study.path.rglob("*.*")
    if path.is_file()
  }
  assert now == files
  assert server.process.poll() is None
  assert stored(server) == good
  time.sleep(1)
  assert server.post(votes_of(server.study, "r2"))[0] == 200


@pytest.fixture
def app(study, tmp_path):
  file = VoteFile(tmp_path / "votes.jsonl")
  yield server_lib.App(study, file, say=lambda line: None)
  file.close()


def test_who_asks_too_often_is_told_when_to_come_again(app):
  app.writes = RateLimit(2, 0.5)
  with server_lib.open_server("127.0.0.1", 0, app) as found:
    threading.Thread(target=found.serve_forever, daemon=True).start()
    statuses = []
    for _ in range(3):
      connection = http.client.HTTPConnection(*found.server_address)
      with contextlib.closing(connection):
        connection.request("POST", "/votes", "{}", {})
        reply = connection.getresponse()
        statuses.append(reply.status)
    assert statuses == [415, 415, 429]
    assert 1 <= int(reply.getheader("Retry-After")) <= 2
    found.shutdown()


def dribble(address, begun):
  """Sends a byte now and then; returns the seconds until it is cut off."""
  start = time.monotonic()
  slow = socket.create_connection(address, timeout=0.1)
  with slow, contextlib.suppress(ConnectionError):
    slow.sendall(begun)
    while time.monotonic() < start + 10:
      slow.sendall(b"x")
      with contextlib.suppress(TimeoutError):
        if not slow.recv(1):
          break
  return time.monotonic() - start


@pytest.mark.parametrize(
  "begun",
  [
    b"",
    b"POST /votes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n"
    b"Content-Type: application/json\r\n\r\n",
  ],
  ids=["head", "body"],
)
def test_a_byte_now_and_then_holds_no_connection(app, monkeypatch, begun):
  monkeypatch.setattr(server_lib, "_CONNECTIONS", 1)
  monkeypatch.setattr(server_lib, "_REQUEST_SECONDS", 1)
  with server_lib.open_server("127.0.0.1", 0, app) as found:
    threading.Thread(target=found.serve_forever, daemon=True).start()
    assert 1 <= dribble(found.server_address, begun) < 8
    status = 0
    end = time.monotonic() + 10
    while not status and time.monotonic() < end:
      # Its place, the only one, is free again.
      with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(*found.server_address)
        with contextlib.closing(connection):
          connection.request("GET", "/tasks.json")
          status = connection.getresponse().status
    assert status == 200
    while found.deadlines and time.monotonic() < end:
      time.sleep(0.05)
    assert not found.deadlines
    found.shutdown()


def test_links_out_of_the_site_are_not_served(tmp_path):
  study = made.make_study(tmp_path)
  (study.path / "site/leak.json").symlink_to(study.path / "key.json")
  (study.path / "site/images/leak.png").symlink_to(study.path / "key.json")
  file = VoteFile(tmp_path / "votes.jsonl")
  pages = server_lib.App(study, file, say=print).pages
  file.close()
  assert not [name for name in pages if "leak" in name]


def test_votes_cannot_lie_where_raters_get_them(tmp_path):
  study = made.make_study(tmp_path)
  file = VoteFile(study.path / "site" / "votes.jsonl")
  with pytest.raises(UserError, match="raters get"):
    server_lib.App(study, file, say=print)
  file.close()


def test_votes_of_another_study_are_not_added_to(study, tmp_path):
  path = tmp_path / "votes.jsonl"
  other = [vote | {"study": "x"} for vote in votes_of(study, "r1")]
  path.write_text(json.dumps(other[0]) + "\n")
  file = VoteFile(path)
  with pytest.raises(UserError, match="another study"):
    server_lib.App(study, file, say=print)
  file.close()


def test_a_port_in_use_is_said(app):
  with server_lib.open_server("127.0.0.1", 0, app) as found:
    port = found.server_address[1]
    with pytest.raises(UserError, match=f"127.0.0.1:{port}"):
      server_lib.open_server("127.0.0.1", port, app)


def test_a_thousand_votes_of_twenty_raters_and_a_kill_in_the_middle(server):
  """Each vote by itself, sent until it is acknowledged, as the page does."""
  study = server.study
  votes = {
    rater: [
      vote for block in range(3) for vote in votes_of(study, rater, block)
    ][:50]
    for rater in (f"r{i}" for i in range(20))
  }
  acknowledged, sent_again = [], []

  def rate(rater):
    for vote in votes[rater]:
      end = time.monotonic() + 120
      while True:
        try:
          status = server.post([vote])[0]
        except (OSError, http.client.HTTPException):
          status = 0
          sent_again.append(vote["id"])
        if status == 200:
          acknowledged.append(vote["id"])
          break
        assert status in (0, 429), status
        assert time.monotonic() < end
        time.sleep(0.05)

  with ThreadPoolExecutor(20) as pool:
    raters = [pool.submit(rate, rater) for rater in votes]
    for reached in (200, 500):
      while len(acknowledged) < reached:
        time.sleep(0.005)
      server.kill()
      before = set(acknowledged)
      kept = {vote["id"] for vote in stored(server)}
      assert before <= kept  # what was acknowledged is on the disk
      server.start()
    for rater in raters:
      rater.result()
  assert len(acknowledged) == 1000
  assert sent_again  # it was killed while votes were on their way
  found = Counter(vote["id"] for vote in stored(server))
  assert found.keys() == {v["id"] for mine in votes.values() for v in mine}
  assert set(found.values()) == {1}


def test_a_full_study_takes_no_more_votes(study, app, monkeypatch):
  monkeypatch.setattr(server_lib, "_MOST_STORED", 30)
  votes = votes_of(study, "r1")
  body = json.dumps({"study": study.id, "votes": votes}).encode()
  assert app.store(body) == len(votes)
  more = body.replace(b"r1", b"r2")
  with pytest.raises(OSError, match="more votes"):
    app.store(more)
  assert len(app.file) == len(votes)
