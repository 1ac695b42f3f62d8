"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pluralign.core.errors import PluralignError

if TYPE_CHECKING:
    import pyarrow as pa

_DISK = {
    errno.ENOSPC: "no space left on the device: free some or choose another place",
    errno.EDQUOT: "the disk quota is used up: free some or choose another place",
    errno.EFBIG: "the file grew past the size limit of this system or session: raise it or choose another place",
    errno.EACCES: "permission denied: choose a folder you may write to",
    errno.EPERM: "not permitted: choose a folder you may write to",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another place",
    errno.EEXIST: "a part of the path is a file, not a folder: choose another place",
    errno.EISDIR: "is a folder, and a file was expected: give a file name",
    errno.ENOENT: "no such file or folder: check the path",
    errno.ENAMETOOLONG: "the name is too long for this file system: choose a shorter one",
}


@contextlib.contextmanager
def disk_errors(path: object) -> Iterator[None]:
    """Turn what the disk refuses into one clear error that names `path`; faults of other kinds pass."""
    try:
        yield
    except Exception as fault:
        code = _disk_code(fault)
        if code in _DISK:
            raise PluralignError(f"{path}: {_DISK[code]}") from fault
        raise


def _disk_code(fault: Exception) -> int | None:
    """The system's error number, also where a writer of weights hides it in its text."""
    if isinstance(fault, OSError):
        return fault.errno
    if found := re.search(r"\(os error (\d+)\)", str(fault)):  # safetensors
        return int(found[1])
    if "inline_container.cc" in str(fault):  # torch.save, which only knows that bytes are missing
        return errno.ENOSPC
    return None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", *, shared: bool = False) -> Iterator[IO[Any]]:
    """Write a file under a temporary name in the same folder and rename it when it is whole.

    A fault or an interrupt leaves no part of the file and keeps what stood there before; a killed process
    leaves the temporary file, which the next write of the same name replaces. Parent folders are made.

    Args:
        path: the file to be.
        mode: `"wb"` or `"w"` (text is UTF-8).
        shared: several processes may write the file at once (a cache): each has a temporary name of its own.

    Raises:
        PluralignError: the disk refuses (full, read-only, not a folder ...), named with the mend.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_write(folder / "a.txt", "w") as out:
        ...     _ = out.write("whole")
        >>> (folder / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}{f'.{os.getpid()}' if shared else ''}.partial")
    with disk_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, mode, encoding=None if "b" in mode else "utf-8") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder under a temporary name beside its place; its files move in when all are written.

    Files of the same names in `path` are replaced, others stay. A fault leaves `path` as it was. Old files go
    before the first new one comes, so that a killed process leaves files missing, never old beside new.
    """
    path = Path(path)
    partial = path / ".partial"
    with disk_errors(path):
        made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            items = sorted(partial.iterdir())
            for item in items:
                target = path / item.name
                if target.is_dir():
                    shutil.rmtree(target)
                else:
                    target.unlink(missing_ok=True)
            for item in items:
                os.replace(item, path / item.name)
        except BaseException:
            shutil.rmtree(path if made else partial, ignore_errors=True)
            raise
        partial.rmdir()


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write JSON atomically; NaN and infinities are refused, since other tools could not read them."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as out:
        out.write(text + "\n")


def write_parquet(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write an Arrow table atomically."""
    import pyarrow.parquet as pq

    with atomic_write(path) as out:
        pq.write_table(table, out, compression="zstd")


def cache_folder() -> Path:
    """Where what is costly to compute is kept: `$PLURALIGN_CACHE`, else `pluralign` in the user's cache folder."""
    given = os.environ.get("PLURALIGN_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pluralign"
