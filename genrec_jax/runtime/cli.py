"""Commands: their flags, and one clear error in place of a traceback."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import functools
import os
import sys
from typing import NoReturn

from absl import app, flags, logging

from genrec_jax.core.errors import UserError, one_line


def run(main: Callable[..., None], *, arguments: bool = False) -> None:
  """Runs a tool whose flags are absl's: parses them, calls `main()`, exits.

  With `arguments` it gets the arguments that are no flags.

  The exit status is 0, 1 for bad flags or a `UserError`, whose message goes to
  standard error, or 130 when interrupted.
  """

  def guarded(argv: list[str]) -> None:
    quieten()
    with user_errors():
      main(*argv[1:])

  app.run(guarded, flags_parser=functools.partial(parse, arguments=arguments))


def parse(argv: list[str], *, arguments: bool = False) -> list[str]:
  """Parses flags; an invalid one ends the program in one line."""
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    fail(str(error))
  if not arguments:
    refuse_arguments(rest)
  return rest


def refuse_arguments(rest: list[str]) -> None:
  """Ends the program if anything but flags was given."""
  if rest[1:]:  # the first is the program
    fail(f"unexpected argument {rest[1]!r}: options start with --")


@contextlib.contextmanager
def user_errors(
  interrupted: Callable[[], str] = lambda: "stopped",
) -> Iterator[None]:
  """Ends the program in one line after an error that the user can fix.

  That is with the message of a `UserError`, or `interrupted()`, or if the disk
  is full, or JAX has no device: which it may say in many ways.
  """
  try:
    yield
  except UserError as error:
    fail(str(error))
  except KeyboardInterrupt:
    fail(interrupted(), 130)
  except OSError as error:
    # Of other errors of the system the traceback says more than a line.
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    where = f" for {error.filename}" if error.filename else ""
    fail(f"no space is left on the disk{where}: make room, and run it again")
  except Exception:
    # Without a device JAX fails wherever it is first used, in many ways.
    if "jax" in sys.modules:
      try:
        require_device()
      except UserError as error:
        fail(str(error))
    raise


def require_device() -> None:
  """Checks that JAX has a device to compute on.

  Raises:
    UserError: names `JAX_PLATFORMS` and what JAX says.
  """
  import jax  # tools that do not compute start faster without it

  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    raise UserError(
      "JAX finds no device for"
      f" JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r}"
      f" ({one_line(error)}): unset it, or set it to cpu, or install JAX for"
      " that platform"
    ) from None


def fail(message: str, status: int = 1) -> NoReturn:
  """Prints an error and ends the program."""
  print(f"error: {message}", file=sys.stderr, flush=True)
  sys.exit(status)


def quieten() -> None:
  """Silences the logs of Orbax and JAX, unless --verbosity asks for them."""
  if not any(arg.lstrip("-").startswith("verbosity") for arg in sys.argv):
    logging.set_verbosity(logging.ERROR)
  # Orbax logs tracebacks of errors that it raises as well.
  logging.get_absl_logger().addFilter(lambda line: "orbax" not in line.pathname)
