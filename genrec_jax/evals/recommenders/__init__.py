"""Recommenders: rankings of the catalogue by what users were seen to choose."""
