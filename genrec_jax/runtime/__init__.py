"""One run on machines and disks: processes, workdir, checkpoints, metrics,
flags and progress lines; imports core only.
"""
