"""Locks that the system gives back when their owner ends, however it ends; the file tells who that is."""

import fcntl
import getpass
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunetv2_dsvm.errors import UserError

_PATIENCE_S = 1.0  # others hold the file for an instant when they look who its owner is


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    user: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (process {self.pid}, since {self.since})"


class Held(UserError):
    """Somebody else holds the lock; the message says who."""


def this_process() -> Owner:
    """As an owner."""
    return Owner(getpass.getuser(), socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"))


@contextmanager
def held(path: Path, what: str, *, patience_s: float = _PATIENCE_S) -> Iterator[int]:
    """Holds a lock within the block, among all processes of all machines that see the file.

    A process that inherits the open file holds the lock too, until it ends.

    Args:
        path: of the lock's file, whose folder is made; removed at the end.
        what: is locked, for the message.
        patience_s: how long to wait for another process.

    Yields:
        The file's descriptor, to be inherited.

    Raises:
        Held: another process holds it.
        UserError: the file's disk has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience_s
    while (descriptor := _locked(path)) is None:
        if time.monotonic() > until:
            raise Held(f"{what} is in the hands of {owner_of(path) or 'another process'}")
        time.sleep(0.05)
    try:
        os.write(descriptor, json.dumps(asdict(this_process())).encode())
        yield descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def owner_of(path: Path) -> Owner | None:
    """Who holds the lock; None where it is free."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _written_in(path)
    finally:
        os.close(descriptor)


def _written_in(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # about to be written, or just removed
        return Owner("somebody", "some machine", 0, "a moment ago")


def _locked(path: Path) -> int | None:
    """The descriptor of the locked and empty file; None where another process holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:  # of another user: in use, or left by one that was killed
        if owner_of(path) is None:
            path.unlink(missing_ok=True)
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_still(path, descriptor):
            os.ftruncate(descriptor, 0)
            return descriptor
    except BlockingIOError:
        pass
    except OSError as error:
        os.close(descriptor)
        raise UserError(f"{path} cannot be locked ({error}): its folder must lie on a disk with file locks") from error
    os.close(descriptor)
    return None


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file was not removed by its last owner between our opening and locking it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
