"""From the strides of nnU-Net's plans to those of a VM-UNet of volumes."""

from collections.abc import Sequence

MOST_STAGES = 4  # of the published network


def strides_of_plan(plan: Sequence[Sequence[int]]) -> list[list[int]]:
    """Strides of a VM-UNet that divide what the plan's own network divides, and so carry the plan's anisotropy.

    With the plan's steps s1 … sm, the patch embedding takes s1 · s2 and the mergings s3, s4, …, for four stages at
    most, as the published network begins with a quarter of the image. With fewer than four steps, that would leave one
    or two small stages, and the patch embedding takes s1 alone. (Ours.)

    Args:
        plan: `architecture.arch_kwargs.strides` of a configuration of nnU-Net's planner, the image's own ones first.

    Returns:
        The argument `strides` of `VMUNet`.

    Raises:
        ValueError: the plan has no step.
    """
    steps = [list(step) for step in plan[1:]]
    if not steps:
        raise ValueError(f"strides {plan} of the plans lower the resolution nowhere; a VM-UNet needs a step or more")
    if len(steps) >= 4:
        steps[:2] = [[a * b for a, b in zip(*steps[:2], strict=True)]]
    return [[1] * len(steps[0]), *steps[:MOST_STAGES]]
