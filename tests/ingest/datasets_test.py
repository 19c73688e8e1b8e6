"""The table of data sets: what a flag, a builder and a page need of each."""

import pathlib
import re

from genrec_jax.ingest.datasets import DATASETS

DOCS = pathlib.Path(__file__).parents[2] / "docs/data.md"


def test_every_data_set_has_a_builder_of_its_own():
  builders = [dataset.builder for dataset in DATASETS.values()]
  assert len(set(builders)) == len(builders)
  # TFDS names folders so; those of data sets made before stay as they are.
  assert builders == [
    *("movie_lens", "amazon", "pixel_rec", "micro_lens", "generic")
  ]


def test_every_data_set_is_documented_and_cited():
  text = DOCS.read_text()
  for name, dataset in DATASETS.items():
    row = re.search(rf"^\| `{name}` \|.*$", text, re.M)[0]
    for folder in dataset.image_folders:
      assert f"`{folder}/`" in row, (name, folder)
    if name != "generic":
      assert dataset.homepage in text
      assert dataset.citation.startswith("@article{")
