"""A stream server in a process of its own, to see what memory it takes: prints its port, then serves.

stream_child.py quick      each frame on its own
stream_child.py causal     by a causal reconstruction with an untrained, tiny prior
"""

from __future__ import annotations

import sys
import time

import torch
from mrd_client import Quick, serving

from medseq.causal import CausalReconstruction, calibrated
from medseq.clip import KSpace
from medseq.network import VideoUNet
from medseq.prior import Prior, SpreadTable

torch.set_num_threads(1)
torch.manual_seed(0)
TINY = Prior(VideoUNet((8, 16), 1), 0.3, SpreadTable([0.01, 1.0], [0.005, 0.1]))


def causal(kspace: KSpace) -> CausalReconstruction:
    return CausalReconstruction(TINY, calibrated(kspace), frames=3, device="cpu", precision="float32")


if __name__ == "__main__":
    begin = {"quick": Quick, "causal": causal}[sys.argv[1]]
    with serving(begin, first=4, room=4, patient=True) as served:
        print(served.port, flush=True)
        while True:
            time.sleep(1)
