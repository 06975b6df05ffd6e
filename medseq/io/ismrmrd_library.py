"""The ismrmrd library, without what its import does to everybody else: it resets the process's warning filters."""

import warnings

with warnings.catch_warnings():
    import ismrmrd
    from ismrmrd import xsd

__all__ = ["ismrmrd", "xsd"]
