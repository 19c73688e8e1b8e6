"""Pytrees, their layout on a mesh, errors, files; imports nothing of ours."""
