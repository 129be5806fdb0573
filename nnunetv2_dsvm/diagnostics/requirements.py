"""Whether what the package requires is installed, in a version that it supports; versions of what else matters."""

import importlib.metadata
import platform

from nnunetv2_dsvm.diagnostics.finding import Finding, Severity
from nnunetv2_dsvm.host.versions import DISTRIBUTIONS, PACKAGE, installed_version

SECTION = "versions"
_WHY_EXCLUDED = {("torch", "2.9"): "; nnU-Net excludes torch 2.9, too"}


def check_requirements() -> list[Finding]:
    """Python, each requirement in the installed package's metadata, and the other packages worth knowing about."""
    python = Finding(SECTION, "python", Severity.OK, platform.python_version())
    try:
        lines = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return [
            python,
            Finding(
                SECTION, PACKAGE, Severity.BLOCKER,
                "is not installed, only importable: nnU-Net cannot find its trainers",
                "install it with pip, e.g. `pip install -e .` in its source folder",
            ),
        ]  # fmt: skip
    from packaging.requirements import Requirement  # matplotlib, which we require, requires it

    required = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate({"extra": ""})]
    others = [name for name in DISTRIBUTIONS if name not in {r.name for r in required}]
    return [
        python,
        Finding(SECTION, PACKAGE, Severity.OK, installed_version(PACKAGE) or ""),
        *(_check(r.name, r.specifier) for r in required),
        *(Finding(SECTION, name, Severity.NOTE, installed_version(name) or "is not installed") for name in others),
    ]


def _check(name: str, specifier) -> Finding:
    version = installed_version(name)
    wanted = f"'{name}{specifier}'"
    if version is None:
        return Finding(SECTION, name, Severity.BLOCKER, "is not installed", f"pip install {wanted}")
    if not specifier.contains(version, prereleases=True):
        why = _WHY_EXCLUDED.get((name, ".".join(version.split(".")[:2])), "")
        detail = f"{version} is not supported, which needs {specifier}{why}"
        return Finding(SECTION, name, Severity.BLOCKER, detail, f"pip install {wanted}")
    return Finding(SECTION, name, Severity.OK, version)
