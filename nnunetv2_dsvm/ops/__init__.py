"""The four-direction selective scan (SS2D) and its backends."""

from nnunetv2_dsvm.ops.dispatch import BACKEND_NAMES, backend_report, select_backend
from nnunetv2_dsvm.ops.scan import ss2d_scan

__all__ = ["BACKEND_NAMES", "backend_report", "select_backend", "ss2d_scan"]
