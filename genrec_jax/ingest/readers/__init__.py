"""The raw files of each data set as tables: what its columns are called."""
