"""The encoder of VMamba's second generation (arXiv 2401.10166), with any decoder behind it."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.checkpointed_blocks import Blocks
from nnunetv2_dsvm.architecture.blocks.stochastic_depth import drop_path_rates
from nnunetv2_dsvm.architecture.blocks.vmamba2_block import ConvolutionalStem, HalvingConvolution, VMamba2Block


class VMamba2Encoder(nn.Module):
    """Image `(B, input_channels, H, W)` to the stages' outputs, channels last, at strides 4, 8, 16, 32, rounded up.

    Args:
        input_channels: image channels.
        dims: channels of each stage.
        depths: blocks of each stage.
        ratio: of the scan's channels to the stage's, 1 (checkpoints `vssm1_*`) or 2 (`vssm_*_0229`, `_0230`).
        drop_path_rate: largest stochastic-depth probability; it grows with depth.
        gradient_checkpointing: recompute each block in backward.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
    """

    def __init__(
        self,
        input_channels: int,
        dims: Sequence[int],
        depths: Sequence[int],
        *,
        ratio: int = 1,
        drop_path_rate: float = 0.2,
        gradient_checkpointing: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__()
        self.stem = ConvolutionalStem(input_channels, dims[0])
        rates = drop_path_rates(0.0, drop_path_rate, depths)
        self.stages = nn.ModuleList(
            Blocks((VMamba2Block(dim, ratio, rate, scan_backend) for rate in of_stage), gradient_checkpointing)
            for dim, of_stage in zip(dims, rates, strict=True)
        )
        widths = itertools.pairwise(dims)
        self.downsamplings = nn.ModuleList(HalvingConvolution(narrow, wide) for narrow, wide in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The output of each stage's last block, H/4 first."""
        x = self.stem(x)
        outputs = []
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else self.downsamplings[i - 1](x))
            outputs.append(x)
        return outputs
