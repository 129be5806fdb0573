"""Versions of what the package runs on."""

import importlib.metadata
import platform

from nnunetv2_dsvm.version import __version__

PACKAGE = "nnunetv2_dsvm"

# Distribution names. The last two are optional.
DISTRIBUTIONS = (
    "nnunetv2",
    "torch",
    "torchvision",
    "triton",
    "dynamic-network-architectures",
    "batchgenerators",
    "batchgeneratorsv2",
    "acvl-utils",
    "numpy",
    "SimpleITK",
    "mamba-ssm",
    "causal-conv1d",
)


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, without importing it; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Python, this package, and `DISTRIBUTIONS`; None for what is not installed."""
    return {
        "python": platform.python_version(),
        PACKAGE: __version__,
        **{name: installed_version(name) for name in DISTRIBUTIONS},
    }
