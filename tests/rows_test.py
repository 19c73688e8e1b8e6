from genrec_jax import rows


def test_names_are_of_one_group_each():
  names = [name for group in rows.GROUPS.values() for name in group]
  assert sorted(names) == sorted(rows.ROWS)
  assert len(set(names)) == len(names)


def test_titles_fit_the_terminal_and_models_keep_their_names():
  assert rows.title("oracle_best_guess") == "best guess"
  assert rows.title("my_model") == "my model"
  assert rows.note("my_model") == ""
  assert max(len(row.title) for row in rows.ROWS.values()) < 15
