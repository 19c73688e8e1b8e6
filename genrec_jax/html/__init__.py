"""The style and parts that every HTML page shares; may import core."""
