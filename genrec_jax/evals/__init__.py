"""Held-out users: samples, scores, baselines, tables and pages; may import all
but config, train and analysis.
"""
