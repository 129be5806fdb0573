"""The suites by name: what each is called in a table, and what its lines are compared with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """One block of the benchmark's output.

    Attributes:
        title: above the suite's tables.
        yardsticks: implementations that the others are compared with: the first of them that was measured.
        step: what follows the forward pass: a whole training step, or forward and backward alone.
        in_percent: what a line needs beyond the yardstick is shown in percent, not how many times faster it is.
        by_default: whether it runs unless another choice is made. The others want all GPUs, all of the CPU, or all of
            one GPU.
    """

    title: str
    yardsticks: tuple[str, ...] = ()
    step: str = "step"
    in_percent: bool = False
    by_default: bool = True


SUITES = {
    "scan": Suite("Selective scan: one call", ("reference", "mamba_ssm", "torch_chunked"), step="fwd+bwd"),
    "core": Suite("SS2D core (convolution's output to merged sum) and VSS block", ("conventional",), step="fwd+bwd"),
    "network": Suite("Network: inference and training step", ("conventional VM-UNet", "PlainConvUNet")),
    "distillation": Suite(
        "Dual self-distillation on top of VM-UNet, and of nnU-Net's own network",
        ("VM-UNet", "PlainConvUNet, compiled", "PlainConvUNet"),
        in_percent=True,
    ),
    "family": Suite("Relatives of VM-UNet: inference and training step", ("PlainConvUNet",), by_default=False),
    "scaling": Suite("DSVM-UNet on several GPUs that share the batch", ("1 GPU",), by_default=False),
    "sharing": Suite(
        "Two processes at once on one CPU: × is the speed that is left to each", ("one process",), by_default=False
    ),
    "memory": Suite("Trainings that fill a memory target: planned and taken", by_default=False),
}
BY_DEFAULT = tuple(name for name, suite in SUITES.items() if suite.by_default)
ON_REQUEST = tuple(name for name, suite in SUITES.items() if not suite.by_default)
