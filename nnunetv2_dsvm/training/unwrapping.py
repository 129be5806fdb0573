"""A network without what training wraps around it."""

from typing import Any

from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel


def unwrap_model(model: Any) -> Any:
    """The network without the wrappers of DDP and torch.compile, if it has them."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    return inner._orig_mod if isinstance(inner, OptimizedModule) else inner
