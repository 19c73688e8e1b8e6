"""Janus and CLIP, and the Protocol that every generator fulfils; may import
nn.
"""
