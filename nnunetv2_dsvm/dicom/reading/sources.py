"""The files of a study: in a folder and below it, in a zip, named by a DICOMDIR, or a single one."""

import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pydicom import Dataset, config, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, MediaStorageDirectoryStorage

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import files_below, is_litter

_ENDINGS = (".dcm", ".dicom", ".ima")
_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True)
class StoredFile:
    """A file on the disk, or a member of a zip, which is read without being unpacked."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        return self.member or self.path.name

    def open(self) -> BinaryIO:
        if self.member is None:
            return open(self.path, "rb")
        with zipfile.ZipFile(self.path) as archive:
            return io.BytesIO(archive.read(self.member))


@contextmanager
def leniently() -> Iterator[None]:
    """Within it pydicom takes values that break the standard's rules as they are, and is silent about them.

    Its and highdicom's messages quote them, and they may be a name or a birth date.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    before = config.settings.reading_validation_mode, config.settings.writing_validation_mode
    config.settings.reading_validation_mode = config.settings.writing_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode, config.settings.writing_validation_mode = before
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def headers(source: Path) -> list[tuple[StoredFile, Dataset]]:
    """The DICOM files of a study with all but their pixels; other files are passed over.

    Args:
        source: a folder, whose folders are looked through too, a zip, a DICOMDIR or another DICOM file.

    Raises:
        UserError: there is no DICOM file, or one is damaged, encrypted or missing.
    """
    found: list[tuple[StoredFile, Dataset]] = []
    others = 0
    for file in _files(source):
        header = _header(file, source)
        if header is None:
            others += 1
        elif header.SOPClassUID != MediaStorageDirectoryStorage:
            found.append((file, header))
    if not found:
        read = f"{others} other file{'s' * (others != 1)}" if others else "no file at all"
        raise UserError(f"{source} holds no DICOM file ({read}): name a folder, zip or file with images with -i")
    return found


def _header(file: StoredFile, source: Path) -> Dataset | None:
    """None of a file that is none of DICOM."""
    try:
        with file.open() as stream:
            header = dcmread(stream, stop_before_pixels=True)
    except InvalidDicomError:
        if file.name.lower().endswith(_ENDINGS):
            raise UserError(_damaged(source, "it only has the name of one")) from None
        return None
    except Exception as error:  # whatever a broken file makes pydicom and zipfile raise; it may quote the file
        if file.member is not None and isinstance(error, RuntimeError):
            raise UserError(
                f"{source} is encrypted, or packed in a way that cannot be read: unpack it and name the folder with -i"
            ) from None
        raise UserError(_damaged(source, type(error).__name__)) from None
    for own in ("SOPClassUID", "SOPInstanceUID"):  # emptied by some anonymisers, which forget the file's own header
        if not header.get(own):
            setattr(header, own, header.file_meta.get(f"MediaStorage{own}", ""))
    if any(name in header and header[name].VM > 1 for name in _UIDS):
        raise UserError(_damaged(source, "it has two values where a UID stands"))
    kind = UID(header.SOPClassUID)
    if not kind or ("Image Storage" in kind.name and "Rows" not in header):
        raise UserError(_damaged(source, "it ends within its header"))
    return header


def _damaged(source: Path, why: str) -> str:
    return f"a DICOM file of {source} is damaged ({why}): copy or export it again, whole"


def _files(source: Path) -> list[StoredFile]:
    if source.is_dir():
        return [StoredFile(path) for path in files_below(source)]
    if not source.is_file():
        raise UserError(f"there is no file or folder {source}: name a DICOM series, study or zip with -i")
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            names = [member.filename for member in archive.infolist() if not member.is_dir()]
        return [
            StoredFile(source, name) for name in sorted(names) if not any(map(is_litter, PurePosixPath(name).parts))
        ]
    try:
        with leniently():
            header = dcmread(source, stop_before_pixels=True)
        if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            return _files_of_directory(source, header)
    except UserError:
        raise
    except Exception:  # said when it is read with the others
        pass
    return [StoredFile(source)]


def _files_of_directory(source: Path, directory: Dataset) -> list[StoredFile]:
    files, missing = [], 0
    for record in directory.get("DirectoryRecordSequence", []):
        if parts := record.get("ReferencedFileID"):
            names = [parts] if isinstance(parts, str) else list(parts)
            # A disc's names are capitals; its copy may be in small letters.
            paths = [source.parent.joinpath(*names), source.parent.joinpath(*(name.lower() for name in names))]
            there = next((path for path in paths if path.is_file()), None)
            missing += there is None
            files += [StoredFile(there)] if there else []
    if missing:
        raise UserError(f"{missing} of the {len(files) + missing} files that {source} names are missing: copy them too")
    return files
