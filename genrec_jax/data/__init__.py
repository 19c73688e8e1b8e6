"""What a run reads: histories, data sets, windows, batches, the synthetic
world; may import runtime.
"""
