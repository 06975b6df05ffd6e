"""Frames reconstructed as they arrive: from a scanner in the MRD streaming protocol, or from a file at its own pace.

`jobs.py` is what the command does; `collector.py` makes frames of readouts, `waiting.py` holds the few that wait,
`session.py` reconstructs them in order, `tally.py` counts and measures, `connection.py` is a client's socket,
`server.py` serves a client, `replay.py` plays a file.
"""
