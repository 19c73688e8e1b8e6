import sys
import time

import pytest

from genrec_jax.runtime import child


def _run(tmp_path, code, seen=lambda line: None):
  return child.run([sys.executable, "-c", code], str(tmp_path / "log"), seen)


def test_output_is_kept_and_shown_line_by_line(tmp_path):
  lines = []
  code = (
    "import sys; print('a'); print('', flush=True); sys.stderr.write('b\\n')"
  )
  assert _run(tmp_path, code, lines.append) is None
  assert _run(tmp_path, "print('c')", lines.append) is None
  assert lines == ["a", "b", "c"]
  assert (tmp_path / "log").read_text() == "a\n\nb\nc\n"


@pytest.mark.parametrize(
  ("code", "expected"),
  [
    ("import sys; print('x'); sys.exit(3)", "exit status 3: x"),
    ("import sys; sys.exit(2)", "exit status 2"),
    (
      "import sys; sys.exit('error: two are wrong:\\n  one\\n  other')",
      "two are wrong: one other",
    ),
    ("1 / 0", "exit status 1: ZeroDivisionError: division by zero"),
    (
      "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
      "killed by SIGKILL",
    ),
  ],
)
def test_why_a_program_failed_is_a_line(code, expected, tmp_path):
  assert _run(tmp_path, code) == expected


def test_an_interrupted_program_is_stopped(tmp_path):
  def interrupt(line):
    raise KeyboardInterrupt

  begun = time.monotonic()
  with pytest.raises(KeyboardInterrupt):
    _run(
      tmp_path, "print('x', flush=True); import time; time.sleep(60)", interrupt
    )
  assert time.monotonic() - begun < 30
