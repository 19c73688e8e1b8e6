"""Raw dumps to data sets, for tools/prepare_data.py only; may import data and
html.
"""
