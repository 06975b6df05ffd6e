"""The first moments of a unit's process: it becomes the command, and will not outlive whoever started it.

Run as a file, `leash.py PARENT PROGRAM ARGUMENT...`, so that nothing of medseq is imported. A process that is killed
with -9 cannot stop its children; the kernel does it for it (prctl(2), PR_SET_PDEATHSIG, which lasts through exec).
"""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # gone already, before the kernel could know
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an image of the memory would hold a patient's
    # When memory runs out, the kernel shall take the unit and not the worker.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("500")
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
