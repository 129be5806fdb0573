"""Fetch a source distribution from the package index through pip, check its digest, cache it, take files out of it."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import beside, put_in_place
from nnunetv2_dsvm.files.checksums import sha256_of


@dataclass(frozen=True)
class SourceArchive:
    """A source distribution on the package index, pinned by its digest."""

    project: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.project}-{self.version}.tar.gz"


def cache_folder() -> Path:
    """The user's cache folder for this package; `XDG_CACHE_HOME` decides on every system where it is set."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        base = Path(os.environ["LOCALAPPDATA"])
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "nnunetv2_dsvm"


def fetch(archive: SourceArchive) -> Path:
    """The archive in the cache, downloaded first where it is missing or damaged.

    Raises:
        UserError: pip is missing, the download failed, or what came is not the pinned file.
    """
    cached = cache_folder() / archive.file_name
    if cached.is_file():
        if sha256_of(cached) == archive.sha256:
            print(f"Using {cached}", flush=True)
            return cached
        print(f"{cached} is damaged (its sha256 is not {archive.sha256}); fetching it again", flush=True)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with beside(cached) as temporary:
            downloaded = _download_with_pip(archive, temporary, cached)
            digest = sha256_of(downloaded)
            if digest != archive.sha256:
                raise UserError(f"{archive.file_name} has sha256 {digest}, expected {archive.sha256}; not used")
            put_in_place(downloaded, cached)
    except OSError as error:
        raise UserError(
            f"cannot write to the cache folder {cached.parent}: {error}. Set XDG_CACHE_HOME to a writable folder."
        ) from error
    return cached


def extract(archive_path: Path, wanted: Callable[[str], bool], folder: Path) -> None:
    """Write the regular files for which `wanted(path)` holds below `folder`.

    Args:
        archive_path: a `.tar.gz` whose members share one top folder.
        wanted: decides by the member's path below that top folder, with `/` between its parts.
        folder: where they go, at that same path; created.

    Raises:
        UserError: a wanted path would leave `folder`.
    """
    with tarfile.open(archive_path, "r:gz") as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts[1:]
            if not member.isfile() or not wanted("/".join(parts)):
                continue
            if ".." in parts or any(os.sep in part or ":" in part or "\\" in part for part in parts):
                raise UserError(f"{archive_path}: refusing to unpack the path {member.name!r}")
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None  # a regular file has content
            with source, open(target, "wb") as destination:
                shutil.copyfileobj(source, destination)


def _download_with_pip(archive: SourceArchive, folder: Path, cached: Path) -> Path:
    requirement = f"{archive.project}=={archive.version}"
    by_hand = (
        f"With `--synthetic` the same steps run on a generated phantom, without a network. Or fetch the file on "
        f"another machine with\n  python -m pip download --no-deps --no-binary {archive.project} {requirement}\n"
        f"and place it here as\n  {cached}\nthen run the command again."
    )
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"pip is missing in {sys.executable}, and it downloads the CT scans. {by_hand}")
    # With its hash in a requirements file pip checks the archive before it looks inside: a wrong one runs no code.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--retries", "2", "--timeout", "20",
        "--no-deps", "--no-binary", archive.project, "--require-hashes", "-r", str(requirements), "-d", str(folder),
    ]  # fmt: skip
    print(f"$ {shlex.join(command)}", flush=True)
    status = subprocess.run(command, check=False).returncode
    downloaded = folder / archive.file_name
    if status != 0 or not downloaded.is_file():
        raise UserError(
            f"pip could not download {archive.file_name} (exit status {status}; its own message is above). {by_hand}"
        )
    return downloaded
