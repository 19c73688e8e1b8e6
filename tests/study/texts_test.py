import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.study import texts


def test_paragraphs_of_a_file(tmp_path):
  path = tmp_path / "consent.txt"
  path.write_text("One\nline.\n \n\n<b>Two</b>\n", encoding="utf-8")
  assert texts.read(str(path)) == ("One line.", "<b>Two</b>")


@pytest.mark.parametrize("content", [b"", b" \n\n ", b"\xff\xfe\xff"])
def test_no_text_is_refused(content, tmp_path):
  path = tmp_path / "consent.txt"
  path.write_bytes(content)
  with pytest.raises(UserError, match="--consent"):
    texts.read(str(path))


def test_no_file_is_refused(tmp_path):
  with pytest.raises(UserError, match="expected a text file"):
    texts.read(str(tmp_path / "nothing"))
