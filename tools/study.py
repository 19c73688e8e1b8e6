r"""Asks people which row's images they prefer: a study, its page, its analysis.

    python tools/study.py make --workdir=runs/rl \
        --rows=rl,sft,content_knn,real_next_item --users=60 --out=STUDY
    python tools/study.py serve --study=STUDY [--port=8000] [--host=127.0.0.1]
    python tools/study.py analyse --study=STUDY \
        --votes=STUDY/votes.jsonl --out=DIR
    python tools/study.py simulate --study=STUDY --raters=30 --out=VOTES

See docs/user_study.md. Only `make` needs JAX.
"""

from collections.abc import Callable
import json
from pathlib import Path
import sys
import time

from absl import flags

from genrec_jax.core import files
from genrec_jax.core.errors import UserError
from genrec_jax.runtime import cli, path_flags

_WORKDIR = path_flags.path_flag("workdir", None, "Of a finished evaluation.")
_ROWS = flags.DEFINE_list("rows", [], "Rows of its table to compare.")
_USERS = flags.DEFINE_integer(
  "users", 60, "Users whose images are shown, at most.", lower_bound=2
)
_SEED = flags.DEFINE_integer("seed", 0, "Of everything random.")
_CHECKS = flags.DEFINE_string(
  "checks",
  "history",
  "What attention checks show of the user, and of somebody else: 'history',"
  " what they liked, or one of --rows.",
)
_TITLE = flags.DEFINE_string("title", None, "Of the page.")
_CONSENT = path_flags.path_flag(
  "consent", None, "A text file to stand in for the text of consent."
)
_CONTACT = flags.DEFINE_string("contact", "", "Whom raters may ask.")
_CODE = flags.DEFINE_string("code", "", "Completion code, shown at the end.")
_SEND_TO = flags.DEFINE_string(
  "send_to", "server", "Where votes go: server, file or an address."
)
_STUDY = path_flags.path_flag("study", None, "A folder that `make` wrote.")
_HOST = flags.DEFINE_string(
  "host", "127.0.0.1", "To listen at; 0.0.0.0 for other machines, too."
)
_PORT = flags.DEFINE_integer(
  "port", 8000, "To listen at; 0: any free one.", 0, 65535
)
_VOTES = path_flags.path_flag(
  "votes", None, "File of votes; of `analyse`, a folder of such files, too."
)
_OUT = path_flags.path_flag("out", None, "Folder to write to.")
_RATERS = flags.DEFINE_integer("raters", 30, "Attentive ones.", lower_bound=1)
_TRUTH = flags.DEFINE_list(
  "truth", [], "Scores of simulated rows, as rl:0.4,sft:0; else evenly apart."
)
_LEFT = flags.DEFINE_integer(
  "always_left", 1, "Raters besides who press left each time.", lower_bound=0
)
_RANDOM = flags.DEFINE_integer(
  "random_clickers", 1, "Raters besides who press anything.", lower_bound=0
)
_RUNS = flags.DEFINE_integer(
  "runs", 100, "Simulated studies that tell the power; 0: none.", lower_bound=0
)


def make() -> None:
  """Makes a study."""
  from genrec_jax.study import make as make_lib
  from genrec_jax.study import planning, texts

  # Any other value is the address that a page sends its votes to.
  collect = {"server": make_lib.OWN_SERVER, "file": ""}
  wording = texts.Texts(contact=_CONTACT.value, code=_CODE.value)
  if _TITLE.value:
    wording = wording._replace(title=_TITLE.value)
  if _CONSENT.value:
    wording = wording._replace(consent=texts.read(_CONSENT.value))
  options = make_lib.Options(
    rows=tuple(_ROWS.value),
    users=_USERS.value,
    seed=_SEED.value,
    checks=_CHECKS.value,
    collect=collect.get(_SEND_TO.value, _SEND_TO.value),
    wording=wording,
  )
  study = make_lib.make(_WORKDIR.value, _OUT.value, options)
  print("\n".join(planning.describe(study)))


def serve() -> None:
  """Serves a study until it is interrupted."""
  from genrec_jax.study import folder, server
  from genrec_jax.study.vote_file import VoteFile

  study = folder.open_study(_STUDY.value)
  path = Path(_VOTES.value or study.path / folder.VOTES)
  file = VoteFile(path)

  def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

  with server.open_server(
    _HOST.value, _PORT.value, server.App(study, file, say)
  ) as found:
    port = found.server_address[1]  # which port 0 became
    print(f"votes go to {path}, which has {len(file)}; Ctrl-C ends")
    # Last: who waits for this line may ask at once.
    print(f"serving http://{_HOST.value}:{port}/", flush=True)
    try:
      found.serve_forever()
    except KeyboardInterrupt:
      print(f"\n{len(file)} votes in {path}")


def analyse() -> None:
  """Analyses votes."""
  from genrec_jax.study import analysis, folder, report, votes

  study = folder.open_study(_STUDY.value)
  found, answers = analysis.run(study, votes.read(_VOTES.value))
  report.write(_OUT.value, found, answers)
  print(report.table(found))
  print(f"{_OUT.value}: analysis.html, analysis.json, votes.csv, raters.csv")


def simulate() -> None:
  """Writes votes of simulated raters, and says what such a study can find."""
  from genrec_jax.study import folder, simulation

  study = folder.open_study(_STUDY.value)
  truth = simulation.scores(study, _TRUTH.value)
  found = simulation.votes(
    study,
    truth,
    raters=_RATERS.value,
    seed=_SEED.value,
    always_left=_LEFT.value,
    random_clickers=_RANDOM.value,
  )
  out = Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  # In the form of real ones, so that `analyse` reads both alike.
  text = "".join(json.dumps(vote) + "\n" for vote in found)
  files.write(out / folder.VOTES, text)
  files.write(out / "truth.json", json.dumps(truth, indent=2) + "\n")
  print(f"{len(found)} votes in {out / folder.VOTES}")
  if not _RUNS.value:
    return
  print(f"power with {_RATERS.value} raters, {_RUNS.value} simulated studies:")
  trials = simulation.trials(
    study, truth, raters=_RATERS.value, runs=_RUNS.value, seed=_SEED.value
  )
  for (first, second), share in trials.power.items():
    apart = truth[first] - truth[second]
    print(f"  {share:4.0%}  {first} and {second}, {abs(apart):.2f} apart")
  print(
    f"{trials.covered:.1%} of the 95 % intervals of win rates hold the truth"
  )


# {command: (function, flags that it needs, flags that it takes besides)}
_COMMANDS: dict[str, tuple[Callable[[], None], tuple, tuple]] = {
  "make": (
    make,
    (_WORKDIR, _ROWS, _OUT),
    (_USERS, _SEED, _CHECKS, _TITLE, _CONSENT, _CONTACT, _CODE, _SEND_TO),
  ),
  "serve": (serve, (_STUDY,), (_HOST, _PORT, _VOTES)),
  "analyse": (analyse, (_STUDY, _VOTES, _OUT), ()),
  "simulate": (
    simulate,
    (_STUDY, _OUT),
    (_RATERS, _SEED, _TRUTH, _LEFT, _RANDOM, _RUNS),
  ),
}


def main(*commands: str) -> None:
  """Does what the command says."""
  if len(commands) != 1 or commands[0] not in _COMMANDS:
    raise UserError(
      f"{' '.join(commands) or 'no command'}: expected one of"
      f" {', '.join(_COMMANDS)}, as in python tools/study.py serve --study=DIR"
    )
  function, needed, others = _COMMANDS[commands[0]]
  missing = [f"--{flag.name}" for flag in needed if not flag.value]
  if missing:
    raise UserError(f"{commands[0]} needs {', '.join(missing)}")
  allowed = {flag.name for flag in (*needed, *others)}
  # A flag without effect is a mistake that nobody sees.
  wrong = [
    f"--{flag.name}"
    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    if flag.present and flag.name not in allowed
  ]
  if wrong:
    raise UserError(
      f"{commands[0]} takes no {', '.join(wrong)}: expected of"
      f" {', '.join(f'--{name}' for name in sorted(allowed))}"
    )
  function()


if __name__ == "__main__":
  cli.run(main, arguments=True)
