"""The smallest networks with one-dimensional Mamba, and a short training of theirs by nnU-Net's SGD."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.relatives.light_m_unet import LightMUNet
from nnunetv2_dsvm.architecture.relatives.u_mamba import UMambaBot, UMambaEnc

U_MAMBAS = (UMambaBot, UMambaEnc)
TWO_STAGES = {"n_conv_per_stage": [2, 1], "n_conv_per_stage_decoder": [1], "features_per_stage": [4, 8]}


def u_mamba(network, axes, classes=2, patch_size=None, **options):
    """The smallest, of two stages; strided along all axes but the first of a volume."""
    stride = [2] * axes if axes == 2 else [1, 2, 2]
    shape = {"kernel_sizes": [[3] * axes] * 2, "strides": [[1] * axes, stride], "patch_size": patch_size or [32] * axes}
    return network(1, classes, **TWO_STAGES, **shape, **options)


def light_m_unet(axes, classes=2, **options):
    stride = [2] * axes if axes == 2 else [1, 2, 2]
    blocks = {"encoder_blocks": (1, 1), "decoder_blocks": (1,)}
    return LightMUNet(1, classes, strides=[[1] * axes, stride], channels=8, **blocks, **options)


def losses_of(network: nn.Module, dtype: torch.dtype, steps: int = 120, size: int = 8) -> Tensor:
    """Of a training under autocast on two images of noise with a bright square; in fp16 with a gradient scaler."""
    torch.manual_seed(0)
    device = next(network.parameters()).device
    target = torch.zeros(2, size, size, dtype=torch.long)
    target[:, size // 4 : size // 2 + 1, size // 2 :] = 1
    image = (torch.randn(2, 1, size, size) + target[:, None]).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, weight_decay=3e-5, nesterov=True)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network.train()(image)
        loss = F.cross_entropy(logits.float(), target.to(device))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return torch.tensor(losses)


def check_goes_as_in_fp32(rounded: Tensor, exact: Tensor) -> None:
    """Raises AssertionError unless a training stays finite, and near another one from the same seed."""
    assert rounded.isfinite().all() and exact[-1] < 0.5 * exact[0]
    torch.testing.assert_close(rounded[:5], exact[:5], rtol=0.02, atol=0.02)
    assert abs(rounded[-20:].mean() - exact[-20:].mean()) < 0.05
