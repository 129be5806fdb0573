"""Which calls of a module go through CUDA graphs, their recordings and replays."""

from nnunetv2_dsvm.cuda_graphs.graphs import CALLS_BEFORE, CudaGraphs

__all__ = ["CALLS_BEFORE", "CudaGraphs"]
