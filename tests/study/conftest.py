import pytest

from tests.study.made import make_study


@pytest.fixture(scope="session")
def study(tmp_path_factory):
  """A study of 12 users and four rows, which nobody changes."""
  return make_study(tmp_path_factory.mktemp("made"))
