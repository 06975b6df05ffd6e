"""The program in which MATLAB files before version 7.3 are read, apart from everything that matters.

SciPy's reader ends its process (segmentation fault) on about one in a hundred damaged files, so that
`medseq.io.cmrxrecon` runs this file, and not the module: nothing of medseq or torch is imported.

Called with the bytes of memory it may take and a path: writes the dimensions of every variable by its name, as JSON.
With a name as well: writes that variable as complex64, the first dimension fastest, and exits with NOT_COMPLEX where it
is not complex.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings

NOT_COMPLEX = 3


def main(memory: str, path: str, name: str | None = None) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    warnings.simplefilter("ignore")
    import numpy as np
    import scipy.io

    if name is None:
        found = scipy.io.whosmat(path)
        sys.stdout.write(json.dumps({name: [int(size) for size in shape] for name, shape, _ in found}))
        return 0
    values = scipy.io.loadmat(path, variable_names=[name])[name]
    if values.dtype.kind != "c":
        return NOT_COMPLEX
    sys.stdout.buffer.write(np.ascontiguousarray(values.T, dtype="<c8").data)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
