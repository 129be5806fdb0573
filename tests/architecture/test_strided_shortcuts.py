"""The strided shortcuts of narrow residual convolutions on a CPU, where torch's weight gradient damages memory."""

import subprocess
import sys

import pytest
import torch
from helpers.tiny_relatives import TINY
from torch import nn

from nnunetv2_dsvm.architecture.blocks.residual_conv import ResidualConv
from nnunetv2_dsvm.architecture.relatives.u_mamba import UMambaEnc

TRAINING = """
import torch
from torch import nn
from nnunetv2_dsvm.architecture.blocks.residual_conv import ResidualConv
layer = ResidualConv(8, 8, (3, 3), 2, shortcut=nn.Conv2d(8, 8, 1, 2))
for _ in range(3):
    layer(torch.randn(2, 64, 64, 8).movedim(-1, 1)).sum().backward()
"""


def read_by(shortcut: nn.Module) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    shortcut.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    return seen


@pytest.mark.usefixtures("one_thread")
def test_behind_mamba_the_shortcut_reads_positions_last():
    network = UMambaEnc(1, 2, **TINY["UMambaEnc"])
    mamba: list[torch.Tensor] = []
    network.encoder.mamba_layers["0"].register_forward_hook(lambda _, inputs, output: mamba.append(output))
    read = read_by(network.encoder.stages[1][0].shortcut)
    with torch.no_grad():
        network(torch.randn(2, 1, 64, 64))
    assert mamba[0].stride() == (4 * 64 * 64, 1, 64 * 4, 4), (
        "Mamba's channels are no longer last: the test says nothing"
    )
    assert read[0].stride() == (4 * 64 * 64, 64 * 64, 64, 1) and torch.equal(read[0], mamba[0])


@pytest.mark.parametrize(("channels", "copied"), [(2, True), (15, True), (16, False)])
def test_wide_maps_are_not_copied(channels, copied):
    layer = ResidualConv(channels, 8, (3, 3), 2, shortcut=nn.Conv2d(channels, 8, 1, 2))
    read, x = read_by(layer.shortcut), torch.randn(2, 8, 8, channels).movedim(-1, 1)
    with torch.no_grad():
        layer(x)
    assert (read[0].data_ptr() != x.data_ptr()) == copied and torch.equal(read[0], x)


def test_training_ends_well():
    """In a process of its own: without the copy the kernel for AVX-512 kills it."""
    run = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
