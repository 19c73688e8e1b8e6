"""Names on the hub; no test asks the hub itself."""

import huggingface_hub
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.hf import locate


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  locate.download.cache_clear()
  yield tmp_path
  locate.download.cache_clear()


def test_a_name_is_asked_for_once_and_without_pickles(place, monkeypatch):
  asked = []

  def download(name, allow_patterns):
    asked.append((name, allow_patterns))
    return str(place)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert locate.resolve("owner/model") == place
  assert locate.resolve("owner/model") == place
  ((name, patterns),) = asked
  assert name == "owner/model"
  assert "*.safetensors" in patterns
  assert not {"*", "*.bin", "*.pt"} & set(patterns)


@pytest.mark.parametrize(
  "path", ["runs/mistyped", "/owner/model", "model", "a/b/c", "../model"]
)
def test_what_is_no_name_is_not_asked_for(place, monkeypatch, path):
  (place / "runs").mkdir()
  monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
  with pytest.raises(UserError, match="no model at"):
    locate.resolve(path)


def test_without_network_it_says_so(monkeypatch):
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  with pytest.raises(UserError, match=r"no folder 'no/where'.*and a network"):
    locate.resolve("no/where")
