"""Flags that neither tools/generate.py nor tools/infer_hf.py takes, and why.

In flags {place} is a folder with full/note, a file and nothing else but what a
case names, {images} one with 31.png, an image, text.png and part.png.
"""

IMAGE = "--history={images}/31.png"
# Name, which is that of --out in {place} -> flags, parts of the one error.
CASES = {
  "nothing": ([], ["nothing to go by: give --history, --prompt or both"]),
  "blank": (["--prompt= "], ["nothing to go by"]),
  "titles": (
    [IMAGE, "--titles=A|B"],
    ["2 titles and 1 images: expected a title for each"],
  ),
  "no history": (["--titles=A", "--prompt=B"], ["1 titles and 0 images"]),
  "not images": (
    [
      IMAGE + ",{images}/text.png,{images}/part.png,{images}/no.png,{images}",
    ],
    [
      "text.png cannot be read as an image",
      "part.png cannot be read as an image",
      "no image {images}/no.png",
      "{images} cannot be read as an image",
    ],
  ),
  "numbers": (
    [
      IMAGE,
      "--num=0",
      "--temperature=0",
      "--top_p=2",
      "--top_k=-1",
      "--guidance=nan",
      "--max_tokens=0",
      "--seed=-1",
    ],
    [
      "--num=0: expected at least 1",
      "--temperature=0.0: expected more than 0",
      "--top_p=2.0: expected more than 0 and at most 1",
      "--top_k=-1: expected at least 0",
      "--guidance=nan: expected a number",
      "--max_tokens=0: expected at least 1",
      "--seed=-1: expected at least 0 and less than 2**32",
    ],
  ),
  "infinite": ([IMAGE, "--temperature=inf"], ["--temperature=inf: expected"]),
  "full": ([IMAGE], ["full exists and is not an empty folder; choose another"]),
  "file": ([IMAGE], ["file exists and is not an empty folder; choose another"]),
  "file/below": ([IMAGE], ["cannot be written", "file is not a folder"]),
  "full dump": (
    [IMAGE, "--dump={place}/full"],
    ["full exists and is not an empty folder; choose another"],
  ),
  "dumped/inside": (
    [IMAGE, "--dump={place}/dumped"],
    ["--out lies in --dump: expected the other way round"],
  ),
  "home": ([IMAGE, "--dump=~no_one/x"], ["there is no home folder ~no_one"]),
  "mode": ([IMAGE, "--mode=sound"], ["mode", "sound", "image", "text"]),
  "dtype": ([IMAGE, "--dtype=int8"], ["dtype", "int8", "bfloat16"]),
  "word": ([IMAGE, "--num=many"], ["--num", "invalid", "many"]),
  "greedy": ([IMAGE, "--greedy=perhaps"], ["greedy", "perhaps"]),
  "unknown": ([IMAGE, "--colour=red"], ["colour"]),
  "argument": ([IMAGE, "b.png"], ["b.png"]),
  "model": ([IMAGE, "--model={place}/absent"], ["{place}/absent"]),
  "too many": (
    ["--history=" + ",".join(["{images}/31.png"] * 9)],
    ["9 images of 27", "the 256 positions", "give at most 6 images"],
  ),
  "too long an item": (
    [IMAGE, "--mode=item", "--max_tokens=250"],
    ["do not fit the 256 positions", "smaller --max_tokens"],
  ),
  "too long": (
    [IMAGE, "--mode=text"],
    ["answer of up to 256", "smaller --max_tokens"],
  ),
}


def make(place, images):
  """Makes the folders; returns name -> (flags with --out, messages)."""
  (place / "full").mkdir()
  (place / "full" / "note").write_text("keep")
  (place / "file").write_text("keep")
  known = {"place": place, "images": images}
  return {
    name: (
      [f"--out={place / name}", *(flag.format(**known) for flag in flags)],
      [message.format(**known) for message in messages],
    )
    for name, (flags, messages) in CASES.items()
  }
