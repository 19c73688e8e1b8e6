"""The data sets that can be imported: all that is known of each, in one table.

To add one, write a reader of its raw files and an entry here; the flag
--dataset, the TFDS builder and the defaults follow from it.
"""

from collections.abc import Callable
import dataclasses
import functools
from pathlib import Path

from genrec_jax.ingest.readers import amazon, csv_pair, generic, movielens
from genrec_jax.ingest.readers.table import Table


@dataclasses.dataclass(frozen=True)
class RawDataset:
  """A data set as its authors publish it, and what we know about it."""

  # Returns the tables of interactions and of titles in a folder of raw files.
  tables: Callable[..., tuple[Table, Table]]
  builder: str  # TFDS's name, which is that of a folder in what is prepared
  description: str
  homepage: str | None = None
  citation: str | None = None
  image_folders: tuple[str, ...] = ("images",)  # looked for next to the tables
  min_rating: float | None = None  # None: keep all, rated or not
  # Returns the items' ids in other catalogues, by which files may be misnamed.
  other_ids: Callable[[Path], Table | None] = lambda raw: None


DATASETS = {
  "movielens": RawDataset(
    tables=movielens.tables,
    builder="movie_lens",
    description=(
      "MovieLens: films that people rated; posters are the user's own."
    ),
    homepage="https://grouplens.org/datasets/movielens/",
    citation="""@article{harper2015movielens,
  title={The MovieLens Datasets: History and Context},
  author={Harper, F. Maxwell and Konstan, Joseph A.},
  journal={ACM Transactions on Interactive Intelligent Systems},
  volume={5},
  number={4},
  year={2015}
}""",
    image_folders=("images", "posters"),
    min_rating=4.0,  # of 5: films that were liked
    other_ids=movielens.other_ids,
  ),
  "amazon": RawDataset(
    tables=amazon.tables,
    builder="amazon",
    description=(
      "Amazon Reviews 2023: products that people reviewed, by category."
    ),
    homepage="https://amazon-reviews-2023.github.io/",
    citation="""@article{hou2024bridging,
  title={Bridging Language and Items for Retrieval and Recommendation},
  author={Hou, Yupeng and Li, Jiacheng and He, Zhankui and Yan, An and
    Chen, Xiusi and McAuley, Julian},
  journal={arXiv preprint arXiv:2403.03952},
  year={2024}
}""",
  ),
  "pixelrec": RawDataset(
    # `Pixel*.csv`, item first, and the item information.
    tables=functools.partial(
      csv_pair.tables,
      name="PixelRec",
      interactions="Pixel200K.csv",
      titles="an item-info csv",
    ),
    builder="pixel_rec",
    description="PixelRec: videos that people watched, with their covers.",
    homepage="https://github.com/westlake-repl/PixelRec",
    citation="""@article{cheng2023image,
  title={An Image Dataset for Benchmarking Recommender Systems with Raw
    Pixels},
  author={Cheng, Yu and Pan, Yunzhu and Zhang, Jiaqi and Ni, Yongxin and
    Sun, Aixin and Yuan, Fajie},
  journal={arXiv preprint arXiv:2309.06789},
  year={2023}
}""",
    image_folders=("images", "cover", "covers"),  # as its archives are named
  ),
  "microlens": RawDataset(
    tables=functools.partial(
      csv_pair.tables,
      name="MicroLens",
      interactions="MicroLens-50k_pairs.csv",
      titles="MicroLens-50k_titles.csv",
    ),
    builder="micro_lens",
    description=(
      "MicroLens: short videos that people commented on, with their covers."
    ),
    homepage="https://github.com/westlake-repl/MicroLens",
    citation="""@article{ni2023content,
  title={A Content-Driven Micro-Video Recommendation Dataset at Scale},
  author={Ni, Yongxin and Cheng, Yu and Liu, Xiangyan and Fu, Junchen and
    Li, Youhua and He, Xiangnan and Zhang, Yongfeng and Yuan, Fajie},
  journal={arXiv preprint arXiv:2309.15379},
  year={2023}
}""",
    image_folders=("images", "covers", "cover"),
  ),
  "generic": RawDataset(
    tables=generic.tables,  # takes names of files and columns, too
    builder="generic",
    description=(
      "Any interactions of users with items that have titles and images."
    ),
  ),
}
