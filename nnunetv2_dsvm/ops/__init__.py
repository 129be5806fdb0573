"""The selective scan of images and of other grids (SS2D), its backends, and fused operators around it."""

from nnunetv2_dsvm.ops.dispatch import BACKEND_NAMES, backend_report, select_backend
from nnunetv2_dsvm.ops.scan import selective_scan, ss2d_scan
from nnunetv2_dsvm.ops.scan_order import ScanOrder

__all__ = ["BACKEND_NAMES", "ScanOrder", "backend_report", "select_backend", "selective_scan", "ss2d_scan"]
