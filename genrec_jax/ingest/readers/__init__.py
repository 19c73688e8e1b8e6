"""One module per raw format, each to the same tables; may import core."""
