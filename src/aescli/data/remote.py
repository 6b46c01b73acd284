"""Images in stores that fsspec reaches: s3://, gs://, az://, https://, memory:// and more (extra `remote`).

It knows addresses and fsspec. What lies there is not its business; everything that fails becomes an OSError with a
sentence. A path without `scheme://` is never touched.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")  # two letters at least: a Windows drive is no scheme

MOST_BYTES = 1 << 30
"""A larger file is not fetched: it would lie in memory whole."""


def is_remote(path: str) -> bool:
    """Whether `path` is an address such as s3://bucket/cat.jpg."""
    return _ADDRESS.match(path) is not None


@functools.lru_cache(maxsize=32)
def _store(scheme: str, host: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise OSError(f"{scheme}:// paths need fsspec: pip install 'aescli[remote]'") from error
    try:
        return fsspec.core.url_to_fs(f"{scheme}://{host}")[0]
    except (ImportError, ValueError) as error:  # no driver for it, or no such scheme
        raise OSError(f"{scheme}:// paths cannot be read here: {error}") from error


def _open_store(path: str) -> tuple[Any, str]:
    """The store of an address, and the address as the store writes it."""
    scheme, _, rest = path.partition("://")
    if scheme.lower() == "file":
        # As a browser or a file manager writes it: percent-encoded, perhaps with this machine's name.
        rest = rest.removeprefix("localhost")
        path = f"file://{rest if os.path.exists(rest) else unquote(rest)}"
        return _store("file", ""), path.removeprefix("file://")
    store = _store(scheme.lower(), rest.partition("/")[0])
    return store, store._strip_protocol(path)


def _asked(path: str, method: str, *args: Any, **options: Any) -> Any:
    store, name = _open_store(path)
    try:
        return getattr(store, method)(name, *args, **options)
    except OSError:
        raise
    except Exception as error:  # every store has errors of its own
        raise OSError(f"{type(error).__name__}: {error}") from error


def exists(path: str) -> bool:
    """Whether there is anything at an address. Raises OSError where the store does not answer."""
    return bool(_asked(path, "exists"))


def is_folder(path: str) -> bool:
    return bool(_asked(path, "isdir"))


def fetch(path: str) -> io.BytesIO:
    """The whole file, in one request. Raises OSError."""
    data = _asked(path, "cat_file", end=MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(f"has more than {MOST_BYTES >> 30} GB; such a file is not fetched")
    return io.BytesIO(data)


def listing(folder: str) -> list[tuple[str, bool]]:
    """(address, is a folder) of what lies in a folder, sorted by the bytes of the names. Raises OSError."""
    store, _ = _open_store(folder)
    entries = [(entry["name"], entry["type"] == "directory") for entry in _asked(folder, "ls", detail=True)]
    own = store._strip_protocol(folder).rstrip("/")
    found = [(store.unstrip_protocol(name), kind) for name, kind in entries if name.rstrip("/") != own]
    return sorted(found, key=lambda item: os.fsencode(item[0].rstrip("/")))


def matches(pattern: str) -> Iterator[str]:
    """The addresses that a pattern stands for, sorted."""
    store, _ = _open_store(pattern)
    for name in sorted(_asked(pattern, "glob"), key=os.fsencode):
        yield store.unstrip_protocol(name)


def status(path: str) -> tuple[int, int]:
    """(size in bytes, modification time in ns) of a local file or an address, to tell whether it has changed.

    Stores have no common clock: for an address the second number only stands for what the store says about the
    version. Raises OSError or ValueError as os.stat does.
    """
    if not is_remote(path):
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    facts = _asked(path, "info")
    version = [
        str(facts.get(name)) for name in ("ETag", "etag", "LastModified", "updated", "mtime", "created")
    ]
    digest = hashlib.blake2b("\0".join(version).encode(), digest_size=7).digest()
    return int(facts.get("size") or 0), int.from_bytes(digest, "big")
