"""Object code on disk, so that a program is compiled once for a machine.

What enters: what decides the machine code (text, target, versions) as a key, and the object code. What leaves: the same
bytes, or the reason why there are none. Invariant: nothing is handed out to be executed unless it is a regular file of
the current user that nobody else may write, and carries this format's magic, the key it is asked for and the SHA-256 of
its contents. The cache never breaks a compilation: any trouble with the disk is a miss with a reason.

Files are written beside their place and renamed over it, so any number of processes may share the directory; the least
recently used are deleted once they exceed the limit.

>>> cache = ObjectCache(None)
>>> cache.load("00" * 32)
Lookup(data=None, why='disabled')
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Lookup", "ObjectCache", "cache_key", "default_directory"]

FORMAT = 1
_MAGIC = b"graphc-object\x00" + FORMAT.to_bytes(2, "little")
_HEADER = len(_MAGIC) + 32 + 32 + 8
_SUFFIX = ".gco"
_RESCAN = 64  # stores between two looks at what other processes have added
_STALE = 3600.0  # seconds after which an unfinished file belongs to a process that died


@dataclass(frozen=True)
class Lookup:
    """``data`` is the object code, or None and ``why`` says what was in the way."""

    data: bytes | None
    why: str


def cache_key(*parts: str) -> str:
    """The SHA-256 of everything that decides the object code; each part is preceded by its length.

    >>> cache_key("ab", "c") != cache_key("a", "bc")
    True
    """
    digest = hashlib.sha256(_MAGIC)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def default_directory() -> Path | None:
    """``GRAPHC_CACHE_DIR``, or graphc's folder in the platform's user cache; None where it is set to nothing or no home is."""
    chosen = os.environ.get("GRAPHC_CACHE_DIR")
    if chosen is not None:
        return Path(chosen).expanduser() if chosen else None
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "graphc" / "cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "graphc"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "graphc"


class ObjectCache:
    """A directory of object code.

    Args:
        directory: where; made when first written to. None disables the cache.
        limit: bytes that its files may take together.
    """

    def __init__(self, directory: Path | None, limit: int = 256 << 20) -> None:
        self.directory = directory
        self.limit = limit
        self.disabled = "disabled" if directory is None else ""
        self._size: int | None = None  # bytes on disk as last seen, plus what was stored since
        self._stores = 0

    def load(self, key: str) -> Lookup:
        """The object code stored under ``key`` (from :func:`cache_key`); never raises."""
        if self.directory is None:
            return Lookup(None, self.disabled)
        path = self._path(key)
        try:
            data, trouble = _read_own(path)
        except FileNotFoundError:
            return Lookup(None, "no entry")
        except OSError as error:
            return Lookup(None, f"unreadable: {error.strerror or error}")
        trouble = trouble or _check(data, key)
        if trouble:
            return Lookup(None, trouble)
        with contextlib.suppress(OSError):
            os.utime(path)  # recently used
        return Lookup(data[_HEADER:], "hit")

    def store(self, key: str, payload: bytes) -> str:
        """Keep ``payload`` under ``key``; returns "" or why it could not be kept, and never raises."""
        if self.directory is None:
            return self.disabled
        size = len(payload).to_bytes(8, "little")
        data = _MAGIC + bytes.fromhex(key) + hashlib.sha256(payload).digest() + size + payload
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_whole(self._path(key), data)
        except OSError as error:
            return f"disabled: {self.directory} cannot be written ({error.strerror or error})"
        self._bound(len(data))
        return ""

    def clear(self) -> None:
        """Delete every entry."""
        for _, _, path in self._entries():
            with contextlib.suppress(OSError):
                path.unlink()
        self._size = None

    def _path(self, key: str) -> Path:
        assert self.directory is not None
        return self.directory / (key + _SUFFIX)

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(time of last use, size, path) of each file of ours; drops what a crashed writer left."""
        found: list[tuple[float, int, Path]] = []
        if self.directory is None:
            return found
        with contextlib.suppress(OSError), os.scandir(self.directory) as listing:
            for item in listing:
                with contextlib.suppress(OSError):  # another process may delete it under us
                    status = item.stat(follow_symlinks=False)
                    if item.name.endswith(_SUFFIX):
                        found.append((status.st_mtime, status.st_size, Path(item.path)))
                    elif item.name.endswith(_SUFFIX + ".tmp") and status.st_mtime < time.time() - _STALE:
                        os.unlink(item.path)
        return found

    def _bound(self, added: int) -> None:
        self._stores += 1
        if self._size is not None:
            self._size += added
            if self._size <= self.limit and self._stores % _RESCAN:
                return
        entries = sorted(self._entries())
        self._size = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if self._size <= self.limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            self._size -= size


def _read_own(path: Path) -> tuple[bytes, str]:
    """The bytes of a file and "", or what makes it one that must not be trusted (checked on the open file)."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return b"", "foreign: not a regular file"
        if hasattr(os, "geteuid"):
            if status.st_uid != os.geteuid():
                return b"", "foreign: it belongs to another user"
            if status.st_mode & 0o022:
                return b"", "foreign: other users may write it"
        return file.read(), ""


def _check(data: bytes, key: str) -> str:
    if not data.startswith(_MAGIC) or len(data) < _HEADER:
        return "corrupt: not a file of this format"
    start = len(_MAGIC)
    stored_key, digest, size = data[start : start + 32], data[start + 32 : start + 64], data[start + 64 : _HEADER]
    if stored_key != bytes.fromhex(key):
        return "corrupt: the entry of another key"
    payload = memoryview(data)[_HEADER:]
    if len(payload) != int.from_bytes(size, "little") or hashlib.sha256(payload).digest() != digest:
        return "corrupt: checksum"
    return ""


def _write_whole(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=_SUFFIX + ".tmp")  # mode 0600
    try:
        with open(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
