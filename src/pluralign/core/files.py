"""Atomic writes: a file or folder is written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pluralign.core.errors import PluralignError

if TYPE_CHECKING:
    import pyarrow as pa

_DISK = {
    errno.ENOSPC: "no space left on the device: free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another place",
    errno.EFBIG: "the file exceeds the size limit of this system or session: raise the limit or choose another place",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "not permitted: choose a folder that you may write to",
    errno.EROFS: "the file system is read-only: choose another place",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of the path is a file, not a folder: choose another place"),
    errno.EISDIR: "is a folder, and a file was expected: give a file name",
    errno.ENOENT: "no such file or folder: check the path",
    errno.ENAMETOOLONG: "the name is too long for this file system: choose a shorter one",
}


@contextlib.contextmanager
def disk_errors(path: object) -> Iterator[None]:
    """Turn file-system errors into a `PluralignError` that names `path`; other exceptions pass through."""
    try:
        yield
    except Exception as fault:
        code = _disk_code(fault)
        if code in _DISK:
            raise PluralignError(f"{path}: {_DISK[code]}") from fault
        raise


def _disk_code(fault: Exception) -> int | None:
    """The `errno` of an exception, also if a writer of weights reports it only in the message."""
    if isinstance(fault, OSError):
        return fault.errno
    if match := re.search(r"\(os error (\d+)\)", str(fault)):  # safetensors
        return int(match[1])
    if "inline_container.cc" in str(fault):  # torch.save, which reports only that bytes are missing
        return errno.ENOSPC
    return None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", *, shared: bool = False) -> Iterator[IO[Any]]:
    """Write a file under a temporary name in the same folder and rename it when it is complete.

    An exception or interrupt leaves an existing file unchanged and no partial file. A killed process leaves the
    temporary file, which the next write of the same name replaces. Missing parent folders are created.

    Args:
        mode: `"wb"` or `"w"` (text is UTF-8).
        shared: several processes may write the file at once (a cache); each uses its own temporary name.

    Raises:
        PluralignError: the file cannot be written (disk full, read-only, not a folder, ...); names the fix.

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
    """Write files to a temporary folder inside `path`, and move them into `path` when all are written.

    Files with the same names are replaced, others are kept. An exception leaves `path` unchanged. All replaced files
    are removed before the first new one is moved, so a killed process never leaves a mix of old and new files.
    """
    path = Path(path)
    partial = path / ".partial"
    with disk_errors(path):
        is_new = not path.exists()
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
            shutil.rmtree(path if is_new else partial, ignore_errors=True)
            raise
        partial.rmdir()


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write JSON atomically; raises `ValueError` for NaN and infinities, which standard JSON does not have."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as out:
        out.write(text + "\n")


def write_parquet(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write an Arrow table atomically."""
    import pyarrow.parquet as pq

    with atomic_write(path) as out:
        pq.write_table(table, out, compression="zstd")


def cache_folder() -> Path:
    """The folder for cached results: `$PLURALIGN_CACHE`, else `pluralign` in the user's cache folder."""
    if folder := os.environ.get("PLURALIGN_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pluralign"


def path_list(files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """One path or several, as a list of strings.

    Examples:
        >>> path_list("a.parquet"), path_list([Path("a.parquet"), "b.parquet"])
        (['a.parquet'], ['a.parquet', 'b.parquet'])
    """
    return [str(file) for file in ([files] if isinstance(files, str | os.PathLike) else files)]
