"""Training stages of tools/make_tiny.py, one model a module."""
