"""Fetching the scans: cache, digest, no network, unpacking. Nothing here reaches a network."""

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.quickstart import source_archive
from nnunetv2_dsvm.quickstart.source_archive import SourceArchive, cache_folder, extract, fetch

CONTENT = b"the archive"
ARCHIVE = SourceArchive("project", "1.0", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """Stands in for pip: puts `pip.delivers` where it was asked to, or fails where that is None. Keeps its commands."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    class Pip:
        delivers: bytes | None = CONTENT
        commands: list[list[str]] = []

    def run(command, check):
        Pip.commands.append(command)
        if Pip.delivers is None:
            return subprocess.CompletedProcess(command, 1)
        (Path(command[command.index("-d") + 1]) / ARCHIVE.file_name).write_bytes(Pip.delivers)
        return subprocess.CompletedProcess(command, 0)

    Pip.commands = []
    monkeypatch.setattr(source_archive.subprocess, "run", run)
    return Pip


def test_fetched_once_and_then_taken_from_the_cache(pip):
    path = fetch(ARCHIVE)
    assert path == cache_folder() / "project-1.0.tar.gz" and path.read_bytes() == CONTENT
    assert fetch(ARCHIVE) == path
    assert len(pip.commands) == 1
    assert {"--no-deps", "--require-hashes"} < set(pip.commands[0])
    assert list(cache_folder().iterdir()) == [path]  # no temporary folder left


def test_damaged_cached_file_is_fetched_again(pip):
    cache_folder().mkdir(parents=True)
    (cache_folder() / ARCHIVE.file_name).write_bytes(CONTENT[:-1])
    assert fetch(ARCHIVE).read_bytes() == CONTENT


def test_wrong_digest_is_refused_and_not_cached(pip):
    pip.delivers = b"something else"
    with pytest.raises(UserError, match=hashlib.sha256(pip.delivers).hexdigest()):
        fetch(ARCHIVE)
    assert list(cache_folder().iterdir()) == []


def test_without_network_the_message_says_what_to_do(pip):
    pip.delivers = None
    with pytest.raises(UserError) as error:
        fetch(ARCHIVE)
    assert "--synthetic" in str(error.value)
    assert str(cache_folder() / ARCHIVE.file_name) in str(error.value)


def test_without_pip_the_message_says_what_to_do(pip, monkeypatch):
    monkeypatch.setattr(source_archive.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip is missing.*--synthetic"):
        fetch(ARCHIVE)
    assert pip.commands == []


def test_cache_that_cannot_be_written_is_named(pip, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        fetch(ARCHIVE)


def test_only_wanted_regular_files_are_unpacked(tmp_path):
    path = _tar(tmp_path, {"top/a/one": b"1", "top/a/two": b"2", "top/b": b"3"}, link="top/a/link")
    extract(path, lambda name: name.startswith("a/") and name != "a/two", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").rglob("*") if not p.is_dir()] == ["one"]


@pytest.mark.parametrize("name", ["top/../../evil", "top/a/../../../evil"])
def test_path_that_leaves_the_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="refusing"):
        extract(_tar(tmp_path, {name: b""}), lambda name: True, tmp_path / "out")
    assert not list(tmp_path.rglob("evil"))


def _tar(folder: Path, files: dict[str, bytes], link: str | None = None) -> Path:
    path = folder / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link is not None:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return path
