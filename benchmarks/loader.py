r"""Speed of reading batches against that of using them, and what bounds it.

    python -m benchmarks.loader [--users=200000] [--items=20000] [--seconds=10]

Three data sets are generated: one of many users, to see what starting takes;
one for the tiny model; and one of photos of 384 pixels, as Janus-Pro reads
them. On a machine whose cores are busy, rates by the clock say little: compare
the times of the processor, printed next to them.
"""

import dataclasses
import functools
import io
import json
import pathlib
import tempfile
import time

from absl import flags
import duckdb
import jax
import numpy as np
from PIL import Image

from configs import sft as sft_config
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import examples, index, windows
from genrec_jax.data import records as records_lib
from genrec_jax.data import stream as stream_lib
from genrec_jax.hf import load
from genrec_jax.ingest import tfds_builder, work_folder
from genrec_jax.runtime import cli
from genrec_jax.sampling import Sampling
from genrec_jax.train import sft
from genrec_jax.train.build import build

EVENTS = 20  # per user: more than a window of history and future takes
BATCH = 32
SPEC = windows.WindowSpec(
  history_length=5,
  future_horizon=3,
  instruction="Draw the next item that this user will like.",
)


def generate(folder, users, items, side, distinct=64):
  """Prepares a data set of `distinct` noisy photos under many ids.

  Few photos, as making them takes longer than what is measured; a reader cannot
  profit, as records are cached by item and never by content.
  """
  work = folder / "work"
  store = work / work_folder.IMAGES
  store.mkdir(parents=True)
  rng = np.random.default_rng(0)
  data, places = io.BytesIO(), []
  for _ in range(distinct):
    # Smooth colours and noise: a codec takes as long for them as for photos.
    coarse = rng.integers(0, 256, (max(side // 32, 4),) * 2 + (3,), np.uint8)
    image = np.asarray(
      Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    )
    noise = rng.integers(-6, 7, image.shape)  # [side, side, 3]
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    start = data.tell()
    # As `data.images` stores them.
    Image.fromarray(image).save(data, "JPEG", quality=95, subsampling=0)
    places.append((start, data.tell() - start, side, side))
  (store / "000000.bin").write_bytes(data.getvalue())
  # Padded, as the store finds an item by the order of ids.
  ids = [f"{item:08d}" for item in range(items)]
  (store / "000000.json").write_text(
    json.dumps([[i, *places[n % distinct]] for n, i in enumerate(ids)])
  )
  with duckdb.connect() as db:
    db.execute(f"""
      COPY (SELECT printf('%08d', i) AS id, 'large red striped circle ' || i
            AS title, '' AS image FROM range({items}) t(i))
      TO '{work / work_folder.ITEMS}' (FORMAT parquet)""")
    db.execute(f"""
      COPY (SELECT printf('%09d', u) AS id, {EVENTS} * u AS first,
            {EVENTS}::BIGINT AS length, {EVENTS - 2}::BIGINT AS train_end,
            {EVENTS - 2}::BIGINT AS validation_start,
            {EVENTS - 1}::BIGINT AS test_start FROM range({users}) t(u))
      TO '{work / work_folder.USERS}' (FORMAT parquet)""")
    # A prime stride: neighbouring users share few items, so that their images
    # are not in a cache already.
    db.execute(f"""
      COPY (SELECT e // {EVENTS} AS user_row,
            (7919 * (e // {EVENTS}) + e) % {items} AS item_row,
            1000 * e AS timestamp FROM range({users * EVENTS}) t(e))
      TO '{work / work_folder.EVENTS}' (FORMAT parquet)""")
  imported = work_folder.Work(work, {})
  return tfds_builder.store("generic", imported, folder / "data")


def memory():
  """Returns the resident memory of this process in MB, on Linux."""
  status = pathlib.Path("/proc/self/status").read_text()
  # VmRSS is of now; VmHWM, the peak, would still hold the one of `generate`.
  (line,) = (x for x in status.splitlines() if x.startswith("VmRSS"))
  return int(line.split()[1]) / 1024


def start(path, stream):
  """Prints the time and memory that the first batch takes."""
  dataset = dataset_lib.load(path)
  before, begun = memory(), time.perf_counter()
  iterator = iter(stream(dataset))
  next(iterator)
  print(
    f"start: {len(dataset.users):,} users, {len(dataset.items):,} items: first "
    f"batch after {time.perf_counter() - begun:.2f} s, "
    f"+{memory() - before:.0f} MB",
    flush=True,
  )
  # Ends the thread that reads ahead, which would share in the next figures.
  iterator.close()
  # The alternative, which the index's files save.
  before, begun = memory(), time.perf_counter()
  index.of_records(dataset.items, dataset.users)
  print(
    f"  reading every record instead: {time.perf_counter() - begun:.2f} s, "
    f"+{memory() - before:.0f} MB",
    flush=True,
  )


def rate(stream, warm, seconds):
  """Returns windows a second, by the clock and by this process's own time."""
  iterator = iter(stream)
  # Workers start and caches fill meanwhile, which is no part of a steady rate.
  for _ in range(warm):
    batch = next(iterator)
  rows, done = len(batch.history_mask), 0  # P
  # All threads of this process, but none of its workers: with workers, what the
  # main process has to do for a window.
  begun, used = time.perf_counter(), time.process_time()
  while time.perf_counter() - begun < seconds:
    next(iterator)
    done += rows
  clock, used = time.perf_counter() - begun, time.process_time() - used
  iterator.close()
  # The clock of a process is coarse: a short run may have used 0.
  return done / clock, done / max(used, 1e-9)


def consume(path, seconds):
  """Returns the windows a second that SFT of the tiny model takes."""
  config = sft_config.get_config("debug")
  config.data.path, config.data.batch_size = path, BATCH
  config.optim.decay_steps = 0
  parts = build(
    config,
    sample=Sampling(**config.sample),
    copy_threshold=config.eval.copy_threshold,
  )
  step = parts.plan.jit(sft.make_step(config, parts.plan))
  # One batch again and again, on the device already: the step's own rate, not
  # that of the loader it is compared with.
  batch, state = parts.plan.put(next(parts.iterator)), parts.state
  for _ in range(2):  # compiles; the second reads what a step has returned
    state, metrics = step(state, parts.frozen, batch)
  jax.block_until_ready(metrics)
  done, begun = 0, time.perf_counter()
  while time.perf_counter() - begun < seconds:
    state, metrics = step(state, parts.frozen, batch)
    # JAX returns at once: without this, steps would pile up and not be timed.
    jax.block_until_ready(metrics)
    done += BATCH
  result = done / (time.perf_counter() - begun)
  parts.iterator.close()
  return result


def stages(dataset, processor, tokenizer, number=100):
  """Returns the milliseconds of each stage of one window, caches empty."""
  train_windows = windows.find_windows(dataset, "train", SPEC)
  made = examples.Examples(dataset, train_windows, processor, tokenizer)
  # [number], anywhere, as in a shuffled epoch: neighbours share their images.
  numbers = np.random.default_rng(1).integers(len(train_windows), size=number)
  rows = [
    int(row)
    for n in numbers
    for part in train_windows.item_rows(int(n))
    for row in part
  ]

  def timed(function, arguments):
    # Of the processor: other jobs on the machine do not count.
    begun = time.process_time()
    results = [function(argument) for argument in arguments]
    return results, 1e3 * (time.process_time() - begun) / number

  spent = {}
  records, spent["read records"] = timed(dataset.items.__getitem__, rows)
  images, spent["decode"] = timed(records_lib.decode_image, records)
  _, spent["resize"] = timed(processor.pixels, images)
  del records, images  # hundreds of MB, before the examples are made
  # A prompt may need the next item's title, too: [history rows, that item's].
  asked = [
    (history.tolist(), int(future[0]))
    for history, future in (train_windows.item_rows(int(n)) for n in numbers)
  ]
  _, spent["prompt"] = timed(lambda rows: made._prompt(*rows), asked)
  made_now, _ = timed(made.__getitem__, numbers.tolist())
  # The last ones: their pixels are still at hand, those of the first no more.
  _, again = timed(made.__getitem__, numbers[-32:].tolist())
  # Two noisy times: their difference may fall below 0.
  spent["the rest"] = max(again * number / 32 - spent["prompt"], 0)
  batches = [made_now[:32], made_now[32:64], made_now[64:96]]
  _, stacked = timed(examples.stack, batches)
  spent["stack"] = stacked * number / (BATCH * len(batches))
  return spent


def report(name, dataset, processor, tokenizer, stream, warm, seconds):
  """Prints rates and what bounds them; returns the best rate."""
  print(f"{name}: windows a second", flush=True)
  best = 0
  for workers in (0, 2):
    clock, own = rate(stream(dataset, workers=workers), warm, seconds)
    best = max(best, clock)
    where = "a thread" if workers == 0 else f"{workers} processes"
    print(
      f"  {where}: {clock:,.0f}; per second of the main process's own time "
      f"{own:,.0f}",
      flush=True,
    )
  # `own` is now that with processes, where the main one only passes batches on:
  # no number of processes gets beyond it.
  spent = stages(dataset, processor, tokenizer)
  total = sum(spent.values())
  parts = ", ".join(f"{name} {1e3 * ms:,.0f}" for name, ms in spent.items())
  print(f"  microseconds of one window, made anew: {parts}")
  print(
    f"  8 processes at that could make {8e3 / total:,.0f}; the main process "
    f"could take {own:,.0f}: bounded by "
    + ("the main process" if own < 8e3 / total else max(spent, key=spent.get)),
    flush=True,
  )
  return best


def main():
  """Measures and prints everything."""
  options = flags.FLAGS
  seconds = options.seconds
  opened = load.open_generator("tiny_sft", dtype="float32", remat="none")
  _, _, tokenizer = load.load_clip("tiny_clip", dtype="float32")
  tiny = opened.processor
  # The sizes of Janus-Pro, 24 x 24 codes an image, without its weights.
  large = dataclasses.replace(
    tiny, image_size=384, num_image_tokens=576, max_positions=16384
  )

  def stream(dataset, processor=tiny, workers=0):
    return stream_lib.train_batches(
      dataset,
      processor,
      tokenizer,
      SPEC,
      batch_size=BATCH,
      seed=0,
      workers=workers,
    )

  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    begun = time.perf_counter()
    path = generate(folder / "many", options.users, options.items, 32)
    print(f"written in {time.perf_counter() - begun:.0f} s", flush=True)
    start(path, stream)

    # 200 batches to warm up, as the tiny model's images all fit into the cache.
    path = generate(folder / "tiny", 5000, 3000, 32)
    dataset = dataset_lib.load(path)
    best = report("tiny", dataset, tiny, tokenizer, stream, 200, seconds)
    used = consume(path, seconds)
    print(
      f"  SFT of the tiny model uses {used:,.0f}: the loader makes "
      f"{best / used:.1f} times as many",
      flush=True,
    )
    path = generate(folder / "photos", 2000, 3000, 384)
    photos = functools.partial(stream, processor=large)
    dataset = dataset_lib.load(path)
    report("photos", dataset, large, tokenizer, photos, 2, seconds)


if __name__ == "__main__":
  flags.DEFINE_integer("users", 200_000, "Of the large data set.")
  flags.DEFINE_integer("items", 20_000, "Of the large data set.")
  flags.DEFINE_float("seconds", 10, "How long each rate is measured.")
  cli.run(main)
