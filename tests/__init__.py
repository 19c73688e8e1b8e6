"""Tests; a package, for one that a library installs would hide a namespace."""
