"""Studies with people: pairs of images, a page that asks, votes and what they
say; only `make` may import evals, nothing else needs JAX.
"""
