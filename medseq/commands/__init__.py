"""The commands, each a thin layer over the library; importing one of these modules adds its commands to the `app`.

Libraries are imported inside the commands, so that `--help` and a mistyped option answer at once.
"""
