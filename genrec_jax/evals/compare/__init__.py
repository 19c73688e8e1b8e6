"""Several runs side by side: what was varied, paired differences, curves laid
over each other, the same users' images.
"""
