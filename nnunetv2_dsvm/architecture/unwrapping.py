"""A network without what training wraps around it."""

from typing import Any

from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel


def unwrap_model(model: Any) -> Any:
    """The network inside the wrappers of torch.compile and DDP, in whatever order, if it has them."""
    while isinstance(model, OptimizedModule | DistributedDataParallel):
        model = model._orig_mod if isinstance(model, OptimizedModule) else model.module
    return model
