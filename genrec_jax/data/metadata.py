"""Metadata of windows: what a reward on the host may know besides images."""

from typing import Any

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.windows import Windows


def describe(dataset: Dataset, windows: Windows, number: int) -> dict[str, Any]:
  """Returns what is known of a window, by its number in the split.

  'user' and 'item', ids of the user and of the next item; 'title', the next
  item's; 'history_titles', those of the items shown, oldest first.
  Of a prompt of a file also what its line holds.
  """
  history, future = windows.item_rows(number)
  title, item = dataset.index.title, dataset.items[int(future[0])]
  known = {
    "user": dataset.users[windows[number].user]["id"].decode(),
    "item": item["id"].decode(),
    "title": title(int(future[0])),
    "history_titles": [title(int(row)) for row in history],
  }
  return known | dict(item.get("metadata", {}))
