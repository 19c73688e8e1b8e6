"""One run on machines and disks: processes, workdir, checkpoints, metrics,
the terminal; may import core.
"""
