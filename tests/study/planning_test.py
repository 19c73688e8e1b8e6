from genrec_jax.study import planning


def test_what_make_says(study):
  text = "\n".join(planning.describe(study))
  assert "4 rows of 12 users make 72 pairs in 4 blocks of about 25" in text
  # Three votes a block on each two rows; a block and its mirror show the same.
  assert "12 raters see each pair 3 times: 36 votes on each two rows" in text
  # 194 (1 + 2 x 0.1) = 232.6 of 78 raters.
  assert "a win rate of 60%: 194 independent votes, 233 of 78 raters" in text
  assert "783" in text
  assert "85" in text
