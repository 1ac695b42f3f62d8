"""Atomic writes: a file or folder is written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pluralign.core.errors import PluralignError, one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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
    errno.ELOOP: "symbolic links lead in a circle: choose another place",
    errno.ENXIO: "is not a regular file: choose another one",
    errno.EIO: "the device failed (input/output error): check the disk",
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
        if isinstance(fault, ValueError) and str(fault) in ("embedded null byte", "embedded null character in path"):
            raise PluralignError(f"{one_line(str(path))}: holds a null character: correct the path") from fault
        raise


def disk_message(fault: OSError) -> str | None:
    """The message for an error of the file system that nothing closer to its place has caught; `None` for others.

    Examples:
        >>> disk_message(FileNotFoundError(errno.ENOENT, "", "a.parquet"))
        'a.parquet: no such file or folder: check the path'
    """
    if fault.errno not in _DISK or fault.filename is None:
        return None
    return f"{fault.filename}: {_DISK[fault.errno]}"


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
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Write a file under a temporary name in the same folder and rename it when it is complete.

    The temporary name is unique, so that several processes may write the file at once; the last one wins. An exception
    or interrupt leaves an existing file unchanged and no partial file. A killed process leaves the temporary file,
    which the next write of the same name removes. Missing parent folders are created.

    Args:
        mode: `"wb"` or `"w"` (text is UTF-8).

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
    with disk_errors(path):
        if path.is_dir() or not path.name:
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        partial, handle = _new_partial(path)
        try:
            with open(handle, mode, encoding=None if "b" in mode else "utf-8") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
                if fcntl is not None:
                    os.replace(partial, path)  # before it is closed, which ends its lock
            if fcntl is None:
                os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def _new_partial(path: Path) -> tuple[Path, int]:
    """A new temporary file beside `path`, open and locked, so that no other process takes it for a stale one."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if fcntl is None:
            return partial, handle
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if partial.exists():
            return partial, handle
        os.close(handle)  # another process took it for a stale one before it was locked


def _remove_stale(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left: nobody holds their locks."""
    if fcntl is None:
        return
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.partial")
    with os.scandir(path.parent) as entries:
        stale = [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]
    for partial in stale:
        with contextlib.suppress(OSError), open(partial, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink(missing_ok=True)


def check_outputs(outputs: Iterable[str | os.PathLike[str]], inputs: Iterable[object]) -> None:
    """Check, before any work is done, that no output is an input, also under another name or link.

    Args:
        outputs: the files and folders that a command writes.
        inputs: what it reads; `None`, and what is neither a file nor a folder (a hub id, a table), is passed over.

    Raises:
        PluralignError: an output is an input.

    Examples:
        >>> check_outputs(["votes.parquet"], ["./votes.parquet"])
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: votes.parquet: is an input file and would be overwritten: choose another
        output
    """
    read = [Path(file) for file in inputs if isinstance(file, str | os.PathLike)]
    for out in map(Path, outputs):
        with disk_errors(out):
            if any(same_file(out, file) for file in read):
                kind = "folder" if out.is_dir() else "file"
                raise PluralignError(f"{out}: is an input {kind} and would be overwritten: choose another output")


def output_file(
    out: str | os.PathLike[str], inputs: Iterable[object] = (), endings: tuple[str, ...] = (".parquet",)
) -> Path:
    """The path of an output file, checked before any work is done: its ending, and `check_outputs`.

    Raises:
        PluralignError: the name has another ending, it is a folder, or it is an input.
    """
    path = Path(out)
    if not path.name.lower().endswith(endings):
        *first, last = endings
        listed = f"{', '.join(first)} or {last}" if first else last
        raise PluralignError(f"{path}: the name must end in {listed}")
    with disk_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
    check_outputs([path], inputs)
    return path


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder: by their resolved paths, or by a hard link."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist
        return False


def check_distinct(files: Sequence[str | os.PathLike[str]], by_content: bool = True) -> None:
    """Check that no file is given twice: by its path or a link, and with `by_content` also as a copy.

    Raises:
        PluralignError: two files are the same; names both.
    """
    by_size: dict[int, list[Path]] = {}
    for path in map(Path, files):
        with disk_errors(path):
            if not path.is_file():
                continue  # its reader reports it
            size = path.stat().st_size
            others = by_size.setdefault(size, [])
            for other in others:
                if same_file(path, other):
                    raise PluralignError(f"{path}: is given twice, also as {other}: give each file once")
                if by_content and size and _digest(path) == _digest(other):
                    raise PluralignError(f"{path}: has the same content as {other}: give each file once")
            others.append(path)


def _digest(path: Path) -> bytes:
    with open(path, "rb") as data:
        return hashlib.file_digest(data, "sha256").digest()


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


@contextlib.contextmanager
def new_folder(path: Path, replaceable: re.Pattern[str]) -> Iterator[Path]:
    """Write files to a temporary folder beside `path`, which gets its name when all are written.

    An exception leaves `path` unchanged, and a killed process leaves a temporary folder, which the next call removes.
    One process at a time may write a folder: hold its `file_lock`.

    Args:
        path: the folder; replaced as a whole if all of its files have replaceable names.
        replaceable: the pattern of these names.

    Raises:
        PluralignError: the folder holds other files, or cannot be written.
    """
    with disk_errors(path):
        if path.exists() and (
            other := next((one for one in path.iterdir() if not replaceable.fullmatch(one.name)), None)
        ):
            raise PluralignError(f"{path}: holds {other.name}, which would be lost: choose another output folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.partial")
        for stale in [one for one in path.parent.iterdir() if pattern.fullmatch(one.name) and one.is_dir()]:
            shutil.rmtree(stale, ignore_errors=True)
        partial, replaced = (path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial") for _ in range(2))
        partial.mkdir()
        try:
            yield partial
            if path.exists():
                os.replace(path, replaced)
            os.replace(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


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


@contextlib.contextmanager
def parquet_errors(path: object) -> Iterator[None]:
    """Turn faults of the disk and of Parquet files into one clear error that names `path`."""
    import pyarrow as pa

    with disk_errors(path):
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as fault:
            # A damaged page raises an OSError without a number, or gives bytes that are not text.
            if isinstance(fault, OSError) and fault.errno is not None:
                raise
            raise PluralignError(f"{path}: not a readable Parquet file: {one_line(str(fault))}") from fault


def read_parquet(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns.

    Raises:
        PluralignError: it is missing or damaged, or lacks a column.
    """
    import pyarrow.parquet as pq

    with parquet_errors(path), open(path, "rb") as data:
        file = pq.ParquetFile(data)
        names = file.schema_arrow.names  # raises if a damaged name is not text
        missing = [name for name in columns or () if name not in names]
        if missing:
            found = ", ".join(names)
            raise PluralignError(f"{path}: lacks the column {' and '.join(missing)}; found {one_line(found)}")
        return file.read(None if columns is None else list(columns))


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
