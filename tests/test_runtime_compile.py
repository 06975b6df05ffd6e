"""A compiled network answers as the plain one does, and where it cannot be compiled that is said in one line."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from medseq.errors import ResourceError
from medseq.network import VideoUNet
from medseq.prior import Prior, SpreadTable
from medseq.runtime import Compiled, Engine

# torch's own, of the parts of torch that it loads when it compiles
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
NO_COMPILER = shutil.which(os.environ.get("CXX") or "g++") is None


@pytest.fixture(scope="module")
def net() -> VideoUNet:
    torch.manual_seed(0)
    net = VideoUNet(width=(4,), blocks=1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def engine(net: VideoUNet, compile: bool) -> Engine:
    prior = Prior(net, 0.5, SpreadTable([0.01, 1.0], [0.01, 0.5]))
    return Engine(
        prior,
        frames=3,
        periodic=True,
        device="cpu",
        precision="float32",
        seed=0,
        samples=1,
        steps=1,
        progress=None,
        compile=compile,
    )


needs_compiler = pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler")


@needs_compiler
def test_a_compiled_network_gives_the_same(net: VideoUNet) -> None:
    x = torch.randn(1, 1, 3, 12, 16, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), torch._inductor.config.patch(compile_threads=1):
        plain, fused = (engine(net, compile).denoiser(x, 0.3) for compile in (False, True))
    assert (plain - x).norm() > 0.1 * x.norm(), "the network does something"
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


def test_without_a_compiler_it_is_refused(net: VideoUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ResourceError, match=r"^compiling the network takes a C\+\+ compiler: .*, or do without$"):
        engine(net, compile=True)


@needs_compiler
def test_a_compiler_that_fails_is_told_in_one_line(net: VideoUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no Python.h\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    with pytest.raises(ResourceError, match=r"^the network could not be compiled \(no Python.h\); do without$"):
        Compiled(net, torch.device("cpu"))(torch.zeros(1, 2, 3, 8, 8), torch.zeros(1, 3))
