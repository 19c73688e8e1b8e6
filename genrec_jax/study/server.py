"""A laboratory's server of one study: its site, and a file of votes."""

from collections import Counter
from collections.abc import Callable
import contextlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import math
from pathlib import Path
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from genrec_jax.core.errors import UserError
from genrec_jax.study import folder, votes
from genrec_jax.study.limits import RateLimit
from genrec_jax.study.vote_file import VoteFile

_TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".jpg": "image/jpeg",
}
# The page's own policy, and what a page cannot say of itself.
_HEADERS = {
  "Content-Security-Policy": "frame-ancestors 'none'",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
}
_LARGEST = 128 * 1024  # bytes of a body; a block's votes are about 12,000
_MOST_VOTES = 200  # in a body
_MOST_STORED = 500_000  # a sender who makes votes up fills no disk
_CONNECTIONS = 256  # at a time; a browser opens six
_SECONDS = 15  # that a connection may be silent
_REQUEST_SECONDS = 60  # from waiting for a request to the end of its answer


class App:
  """What a server of a study has and does, without HTTP."""

  def __init__(
    self,
    study: folder.Study,
    file: VoteFile,
    say: Callable[[str], None],
  ):
    """Reads the site into memory: nothing else can ever be served.

    Raises:
      UserError: the file holds votes of another study, or is in the site.
    """
    site = study.path / folder.SITE
    if file.path.resolve().is_relative_to(site.resolve()):
      raise UserError(
        f"{file.path} is in the folder that raters get: give a file elsewhere"
        " with --votes"
      )
    self.study, self.file, self._say = study, file, say
    self.pages = _read_site(site)
    # For forty people behind one address, too.
    self.reads = RateLimit(2000, 200)
    self.writes = RateLimit(200, 100)
    self._lock = threading.Lock()
    for vote in file.stored:
      if wrong := votes.problem(vote, study.id, study.key):
        raise UserError(
          f"the file of votes holds what is no vote of this study ({wrong}):"
          " give another file with --votes"
        )
    # Before a restart as after: the least answered block is the next.
    begun = {
      (votes.who(vote), study.key[vote["task"]]["block"])
      for vote in file.stored
    }
    self._begun = Counter(block for _, block in begun)
    self._raters = {rater for rater, _ in begun}

  def next_block(self) -> int:
    """Returns the block that the fewest raters began, and counts one more."""
    with self._lock:
      count = len(self.study.tasks["blocks"])
      block = min(range(count), key=lambda b: (self._begun[b], b))
      self._begun[block] += 1
      return block

  def store(self, body: bytes) -> int:
    """Stores the votes of a request; returns how many there are in it.

    Raises:
      ValueError: says what is wrong; then nothing is stored.
      OSError: they cannot be written; nothing is stored either.
    """
    try:
      given = json.loads(body)
    except (ValueError, RecursionError):
      raise ValueError("not JSON") from None
    if not isinstance(given, dict) or given.keys() != {"study", "votes"}:
      raise ValueError("expected a study and votes")
    sent: Any = given["votes"]
    if not isinstance(sent, list) or not 0 < len(sent) <= _MOST_VOTES:
      raise ValueError(f"expected 1 to {_MOST_VOTES} votes")
    # All or nothing: the page sends a whole block.
    for vote in sent:
      if wrong := votes.problem(vote, self.study.id, self.study.key):
        raise ValueError(wrong)
    if len(self.file) + len(sent) > _MOST_STORED:
      raise OSError("more votes than any study has")
    if new := self.file.add(sent):
      with self._lock:
        self._raters |= {votes.who(vote) for vote in sent}
        count = len(self._raters)
      self._say(f"{new} votes came: {len(self.file)} of {count} raters")
    return len(sent)


def _read_site(site: Path) -> dict[str, tuple[str, bytes]]:
  """Returns {path in an address: (type, content)} of a site's own files."""
  found = {}
  for path in sorted([*site.iterdir(), *(site / "images").iterdir()]):
    # A link may lead out of the folder.
    if path.is_file() and not path.is_symlink() and path.suffix in _TYPES:
      name = "/" + path.relative_to(site).as_posix()
      found[name] = (_TYPES[path.suffix], path.read_bytes())
  return found | {"/": found["/index.html"]}


class Handler(BaseHTTPRequestHandler):
  """Answers GET and HEAD of the site, GET /block and POST /votes."""

  server: "Server"
  protocol_version = "HTTP/1.1"  # a browser's images share connections
  timeout = _SECONDS
  server_version, sys_version = "study", ""  # tells no versions

  def handle_one_request(self) -> None:
    """Handles a request, whose time is limited as a whole, too.

    A sender of a byte every few seconds is never silent for long, and would
    hold one of the connections for as long as it likes.
    """
    until = time.monotonic() + _REQUEST_SECONDS
    self.server.deadlines[self.connection] = until
    try:
      super().handle_one_request()
    finally:
      del self.server.deadlines[self.connection]

  def do_GET(self) -> None:
    """Serves a file of the site, or the next rater's block."""
    app = self.server.app
    if not self._welcome(app.reads):
      return
    if self.headers.get("Content-Length", "0") != "0" or (
      "Transfer-Encoding" in self.headers
    ):
      self.close_connection = True  # a body, unread, is no next request
    path = self.path.partition("?")[0]
    # Looked up, never opened: no path leads out of the site.
    if path == "/block":
      block = json.dumps({"block": app.next_block()}).encode()
      self._reply(HTTPStatus.OK, block)
    elif path in app.pages:
      kind, content = app.pages[path]
      self._reply(HTTPStatus.OK, content, kind)
    else:
      self._refuse(HTTPStatus.NOT_FOUND, "no such page")

  do_HEAD = do_GET

  def do_POST(self) -> None:
    """Stores votes."""
    app = self.server.app
    if not self._welcome(app.writes):
      return
    # Only JSON of the page's own origin comes further: a form of another site
    # can send neither.
    if self.path != "/votes":
      self._refuse(HTTPStatus.NOT_FOUND, "no such page")
      return
    body = self._body()
    if body is None:
      return
    try:
      stored = app.store(body)
    except ValueError as error:
      self._refuse(HTTPStatus.BAD_REQUEST, str(error))
    except OSError:
      self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, "cannot be stored")
    else:
      self._reply(HTTPStatus.OK, json.dumps({"stored": stored}).encode())

  def _welcome(self, limit: RateLimit) -> bool:
    """Returns if a request may go on; answers it if not."""
    wait = limit.wait(self.client_address[0])
    if wait:
      self._refuse(
        HTTPStatus.TOO_MANY_REQUESTS, "too often", after=math.ceil(wait)
      )
      return False
    host = self.headers.get("Host", "")
    # Another site's name for this machine's own address is an attack.
    if self.server.hosts and _hostname(host) not in self.server.hosts:
      self._refuse(HTTPStatus.FORBIDDEN, "another host")
      return False
    # Behind a proxy that adds TLS the page's own origin is https.
    own = (f"http://{host}", f"https://{host}")
    if self.headers.get("Origin", own[0]) not in own:
      self._refuse(HTTPStatus.FORBIDDEN, "another origin")
      return False
    return True

  def _body(self) -> bytes | None:
    """Returns the body of a request, or answers it and returns None."""
    kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
    lengths = self.headers.get_all("Content-Length", [])
    if self.headers.get("Transfer-Encoding") or len(lengths) != 1:
      self._refuse(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
    elif not (lengths[0].isascii() and lengths[0].isdigit()):
      self._refuse(HTTPStatus.BAD_REQUEST, "bad Content-Length")
    elif len(lengths[0]) > 9 or int(lengths[0]) > _LARGEST:
      self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large")
    elif kind.lower() != "application/json":
      self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected JSON")
    else:
      # As much as was announced, and never more than the largest.
      body = self.rfile.read(int(lengths[0]))
      if len(body) == int(lengths[0]):
        return body
      self.close_connection = True  # the sender went away
    return None

  def _refuse(self, status: HTTPStatus, why: str, after: int = 0) -> None:
    # What is left of the request is not read: it is no next request.
    self.close_connection = True
    more = {"Connection": "close"}
    if after:
      more["Retry-After"] = str(after)
    self._reply(status, json.dumps({"error": why}).encode(), more=more)

  def _reply(
    self,
    status: HTTPStatus,
    content: bytes,
    kind: str = _TYPES[".json"],
    more: dict[str, str] | None = None,
  ) -> None:
    self.send_response(status)
    headers = {
      "Content-Type": kind,
      "Content-Length": str(len(content)),
      # Images are named by their content; of other studies, at the same
      # address, all else differs.
      "Cache-Control": "max-age=3600" if "image" in kind else "no-store",
    }
    for name, value in (headers | _HEADERS | (more or {})).items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def send_error(
    self, code: int, message: str | None = None, explain: str | None = None
  ) -> None:
    """Refuses what is not HTTP, and methods that there are not."""
    # http.server's own page would repeat the request, of which this tells none.
    del message, explain
    self.command = getattr(self, "command", None) or ""
    if code == HTTPStatus.NOT_IMPLEMENTED:  # http.server's word for a method
      code = HTTPStatus.METHOD_NOT_ALLOWED
    self._refuse(HTTPStatus(code), HTTPStatus(code).phrase)

  def log_message(self, format: str, *args: Any) -> None:
    """Logs nothing: a log of requests is a log of addresses."""


def _hostname(host: str) -> str | None:
  """Returns the name in a Host header, without the port."""
  try:
    return urlsplit(f"//{host}").hostname
  except ValueError:
    return None


class Server(ThreadingHTTPServer):
  """A server with a bound on its connections."""

  daemon_threads = True  # Ctrl-C waits for no connection
  request_queue_size = 128  # of connections that wait to be taken

  def __init__(self, host: str, port: int, app: App):
    """Listens; `hosts` are the names by which it may be called, if known."""
    self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
    super().__init__((host, port), Handler)
    self.app = app
    loopback = {"127.0.0.1", "localhost", "::1"}
    # At another address the names of this machine are not known.
    self.hosts = loopback if host in loopback else set()
    self._free = threading.Semaphore(_CONNECTIONS)
    self.deadlines: dict[socket.socket, float] = {}  # when requests must end

  def service_actions(self) -> None:
    """Cuts off requests that take too long; called twice a second."""
    now = time.monotonic()
    for connection, until in self.deadlines.copy().items():
      if until < now:
        # Whoever waits for it wakes up; it may have ended by itself just now.
        with contextlib.suppress(OSError):
          connection.shutdown(socket.SHUT_RDWR)

  def process_request(self, request: Any, client_address: Any) -> None:
    """Takes a connection, or closes it when there are too many."""
    if self._free.acquire(blocking=False):
      super().process_request(request, client_address)
    else:
      self.shutdown_request(request)

  def process_request_thread(self, request: Any, client_address: Any) -> None:
    """Frees the connection's place in the end."""
    try:
      super().process_request_thread(request, client_address)
    finally:
      self._free.release()

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Says nothing of senders that went away."""


def open_server(host: str, port: int, app: App) -> Server:
  """Returns a server that listens; port 0 is any free one.

  Raises:
    UserError: it cannot listen there.
  """
  try:
    return Server(host, port, app)
  except OSError as error:
    raise UserError(
      f"cannot listen at {host}:{port}: {error.strerror}; give another --port,"
      " or a --host that this machine has"
    ) from None
