"""Locks between processes: at most one of them writes a file or a folder at a time."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

FOLDER_LOCK = ".lock"
"""The lock of a run folder; it holds nothing."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file, `.NAME.lock` beside it.

    The lock ends with its process, so a killed process blocks nobody. A file system without locks gives a warning and
    no protection.

    Args:
        path: the file.
        wait: wait while another process holds the lock.

    Raises:
        PluralignError: another process holds it, and `wait` is false.
    """
    with _held(path.with_name(f".{path.name}.lock"), path, wait):
        yield


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; otherwise as `file_lock`.

    Raises:
        PluralignError: another process holds it.
    """
    with _held(folder / FOLDER_LOCK, folder, wait=False):
        yield


@contextlib.contextmanager
def _held(lock: Path, target: Path, wait: bool) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    with disk_errors(target):
        made = not lock.parent.exists()
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquired(lock, target, wait)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)  # while it is held: who opened this file meanwhile sees that it is gone
            if made:
                lock.parent.rmdir()  # fails if anything was written
        os.close(handle)


def _acquired(lock: Path, target: Path, wait: bool) -> int:
    """An open handle that holds the lock of the file that has the name now."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            raise PluralignError(
                f"{target}: another process is writing there: wait until it has ended, or choose another output"
            ) from None
        except OSError as fault:
            if fault.errno not in _UNSUPPORTED:
                os.close(handle)
                raise
            logger.warning(f"{target}: this file system has no locks: let one process at a time write there")
            return handle
        if is_at(handle, lock):
            return handle
        os.close(handle)  # its holder removed it between opening and locking


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one that has the name `path`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def locks_out(
    lock: Callable[[Path], contextlib.AbstractContextManager[None]] = folder_lock,
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorate a function that writes to `out`, if given: it holds the lock of this folder (or file) meanwhile."""

    def decorated(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def locked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            out = signature.bind(*args, **kwargs).arguments.get("out")
            with contextlib.nullcontext() if out is None else lock(Path(out)):
                return function(*args, **kwargs)

        return locked

    return decorated
