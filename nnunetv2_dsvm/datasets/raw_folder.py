"""A dataset's folder below `nnUNet_raw`: claimed, written beside its place, checked by nnU-Net, then renamed.

The folder remembers which files were written (`conversion.json`). A second conversion replaces them and nothing else:
a folder that something else made, or in which files were added or changed since, is refused.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_dsvm.datasets.splits import Fold, check_splits, put_splits
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import recover, replaced_folder
from nnunetv2_dsvm.files.json_files import read_json, write_json
from nnunetv2_dsvm.files.listing import files_below, left_by_a_system
from nnunetv2_dsvm.files.places_to_write import check_folder_place
from nnunetv2_dsvm.host.workers import map_with_progress
from nnunetv2_dsvm.images.nifti_files import check_whole, is_nifti
from nnunetv2_dsvm.nnunet.folders import check_folder_variables, nnunet_folder
from nnunetv2_dsvm.nnunet.listing import nnunet_passing_over_litter
from nnunetv2_dsvm.nnunet.names import SPLITS_JSON, dataset_name
from nnunetv2_dsvm.version import __version__

MANIFEST = "conversion.json"
HASHED_BYTES = 2**20


@dataclass(frozen=True)
class Contents:
    """What a converter has verified and is ready to write.

    Args:
        write: fills an empty folder named `DatasetXXX_Name`, `dataset.json` included.
        folds: for `splits_final.json`; none where nnU-Net makes its own five folds.
        notes: what the user should know, one line each.
        fold: what the papers train, as `nnUNetv2_train` names it.
    """

    write: Callable[[Path], None]
    folds: Sequence[Fold] = ()
    notes: Sequence[str] = ()
    fold: str = "0"


class RawFolder:
    """`nnUNet_raw/DatasetXXX_Name` for an ID that no other dataset has.

    Args:
        dataset_id: 1 to 999.
        title: the dataset's name without its number.

    Raises:
        UserError: the ID is out of range or belongs to another dataset, `nnUNet_raw` is not set or one of nnU-Net's
            folder variables cannot be meant, or the folder is not one that this command may replace.
    """

    def __init__(self, dataset_id: int, title: str) -> None:
        if not 1 <= dataset_id <= 999:
            raise UserError(f"-d {dataset_id}: nnU-Net's dataset IDs go from 1 to 999")
        check_folder_variables("raw")
        raw, preprocessed, results = (nnunet_folder(kind) for kind in ("raw", "preprocessed", "results"))
        assert raw is not None  # it was needed
        self.dataset_id = dataset_id
        self.name = dataset_name(dataset_id, title)
        self.path = raw.absolute() / self.name
        self.preprocessed = preprocessed.absolute() / self.name if preprocessed else None
        self._roots = [root for root in (raw, preprocessed, results) if root]
        check_folder_place(self.path, "let nnUNet_raw name another folder")
        if self.preprocessed:
            check_folder_place(self.preprocessed, "let nnUNet_preprocessed name another folder", (SPLITS_JSON,))
        self._check_id()
        self._check_ours()

    def write(self, contents: Contents, *, workers: int) -> None:
        """Write, check and rename; `splits_final.json` goes into the raw and the preprocessed folder.

        Raises:
            UserError: the disk is full or read only, nnU-Net's integrity check fails, or the preprocessed folder has
                folds of somebody else's. The old dataset, if there was one, is then still there, unchanged.
        """
        recover(self.path)
        old_folds = self._old_folds()
        try:
            check_splits(self.preprocessed, old=old_folds, new=contents.folds)
            with replaced_folder(self.path) as partial:
                contents.write(partial)
                _check_nifti_files(partial, workers)
                if contents.folds:
                    put_splits(partial, contents.folds)
                _write_manifest(partial)
                _check_with_nnunet(partial, workers)
                self._check_ours()  # once more: the conversion may have taken long
            if self.preprocessed:
                put_splits(self.preprocessed, contents.folds, old=old_folds)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error}") from error

    def _check_id(self) -> None:
        pattern = f"Dataset{self.dataset_id:03d}*"  # nnU-Net finds datasets by this
        found = {path for root in self._roots for path in root.glob(pattern) if path.is_dir()}
        others = {path for path in found if path.name != self.name}
        if others:
            listed = ", ".join(map(str, sorted(others)))
            raise UserError(f"-d {self.dataset_id} belongs to another dataset ({listed}); choose another ID with -d")

    def _check_ours(self) -> None:
        if not self.path.exists():
            return
        advice = "Nothing was touched. Move it away, or choose another ID with -d."
        try:
            written = dict(json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["files"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path} exists and was not made by this command. {advice}") from None
        present = _fingerprints(self.path)
        foreign = sorted(path for path, fingerprint in present.items() if written.get(path) != fingerprint)
        if foreign:
            shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
            raise UserError(f"files in {self.path} were added or changed since it was written: {shown}. {advice}")

    def _old_folds(self) -> list[Fold]:
        path = self.path / SPLITS_JSON
        return read_json(path) if path.is_file() else []


def _fingerprints(folder: Path) -> dict[str, str]:
    """Size in bytes, and of small files the SHA-256, by the path relative to `folder`; not the manifest's own.

    Large images would take long to read again, and a changed one hardly ever keeps its compressed size. Hidden files
    count, since somebody may have made them; those that a system made do not.
    """
    relative = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir() and path.name != MANIFEST)
    files = (path for path in relative if not any(map(left_by_a_system, path.parts)))
    return {path.as_posix(): _fingerprint(folder / path) for path in files}


def _fingerprint(path: Path) -> str:
    size = path.lstat().st_size
    if size > HASHED_BYTES or path.is_symlink():
        return str(size)
    return f"{size} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _write_manifest(folder: Path) -> None:
    content = {"made_by": f"nnunetv2_dsvm {__version__}", "files": _fingerprints(folder)}
    write_json(folder / MANIFEST, content, indent=1)


def _check_nifti_files(folder: Path, workers: int) -> None:
    """ITK does not notice a disk that fills up while it writes, and reads zeros for what is then missing."""
    files = [path for path in files_below(folder) if is_nifti(path)]
    if not files:
        return

    def check(file: Path) -> None:
        try:
            check_whole(file)
        except Exception as error:  # whatever nibabel, gzip and zlib raise
            free = f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB are free on its disk"
            raise UserError(f"{file.name} was not written whole ({error}); {free}. Nothing was changed") from error

    map_with_progress(check, files, description="reading again", workers=workers)


def _check_with_nnunet(folder: Path, processes: int) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity  # imports torch

    try:
        with nnunet_passing_over_litter():
            verify_dataset_integrity(str(folder), processes)
    except Exception as error:  # it raises AssertionError, RuntimeError and what its readers raise
        raise UserError(
            f"nnU-Net's integrity check refused the converted dataset, and it was removed. {error} "
            "(what it printed is above)"
        ) from error
