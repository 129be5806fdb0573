"""Random sizes, channels, classes and number formats: the network and the loss neither crash nor give NaN."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nnunetv2_dsvm import DualSelfDistillation, VMUNet
from nnunetv2_dsvm.training.loss import SegmentationWithDistillationLoss, pixels_not_ignored

FORMATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
IGNORE = 99


def cross_entropy(logits, target):
    outputs = logits if isinstance(logits, list) else [logits]
    sizes = [output.shape[-2:] for output in outputs]
    targets = [F.interpolate(target.float(), size, mode="nearest")[:, 0].long() for size in sizes]
    losses = (
        F.cross_entropy(o.float(), t, ignore_index=IGNORE, reduction="sum") / t.numel()
        for o, t in zip(outputs, targets, strict=True)
    )
    return sum(losses)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    batch=st.integers(1, 2),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.integers(1, 4),
    classes=st.integers(1, 7),
    stages=st.integers(1, 3),
    d_state=st.integers(1, 4),
    number_format=st.sampled_from(FORMATS),
    deep_supervision=st.booleans(),
    distance=st.sampled_from(["mse", "kl"]),
    standardise=st.booleans(),
    ignored=st.sampled_from([None, 0.0, 0.5, 1.0]),
    scale=st.sampled_from([0.0, 1.0, 1e3]),
    seed=st.integers(0, 2**31),
)
def test_network_and_loss_are_finite(
    batch, height, width, channels, classes, stages, d_state, number_format, deep_supervision, distance, standardise,
    ignored, scale, seed,
):  # fmt: skip
    torch.manual_seed(seed)
    deep_supervision = deep_supervision and stages > 1  # a single stage has one output
    dims = [8 * 2**stage for stage in range(stages)]
    network = VMUNet(
        channels, classes, dims=dims, encoder_depths=[1] * stages, decoder_depths=[1] * stages, d_state=d_state,
        deep_supervision=deep_supervision,
    )  # fmt: skip
    network.return_features = True
    distillation = DualSelfDistillation(dims, dims, distance=distance, standardise=standardise)
    not_ignored = None if ignored is None else lambda target: pixels_not_ignored(target, IGNORE, False)
    weights = {"projection": 1.0, "progressive": 1.0}
    stride = network.encoder_stages[0].stride
    loss = SegmentationWithDistillationLoss(cross_entropy, distillation, weights, 0, not_ignored, stride=stride)
    image = scale * torch.randn(batch, channels, height, width)
    target = torch.randint(classes, (batch, 1, height, width))
    if ignored is not None:
        target[torch.rand(target.shape) < ignored] = IGNORE
    if number_format is torch.float64:
        network, distillation, image = network.double(), distillation.double(), image.double()
    # oneDNN's convolution of one channel in bf16 reads memory that nobody has written, here NaN.
    with torch.backends.mkldnn.flags(enabled=number_format is not torch.bfloat16):
        with torch.autocast("cpu", dtype=number_format, enabled=number_format.itemsize == 2):
            output = network(image)
            value = loss(output, target)
        value.backward()
    assert value.isfinite() and value >= 0
    logits = output.logits[0] if deep_supervision else output.logits
    assert logits.shape == (batch, classes, height, width) and logits.isfinite().all()
    gradients = [p.grad for module in (network, distillation) for p in module.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    with torch.inference_mode():
        assert network.eval()(image)[0].isfinite().all()
