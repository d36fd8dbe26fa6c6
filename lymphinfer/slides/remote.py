"""Slides at http(s) and s3 addresses, of which only the bytes that are needed are fetched."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lymphinfer.errors import SlideError

_SCHEME = re.compile(r"^(https?|s3|gs|gcs|az|abfs|memory):/+(?=[^/])", re.IGNORECASE)
# Headers of TIFF lie in a few places; a page of 64 KiB saves most of the ways there and back.
_HEADER_BLOCK = 1 << 16


def remote_address(path: object) -> str | None:
    """The address that a path stands for, or None for a file.

    A `Path` of an address has lost one of its two slashes; it gets it back.

    Examples
    --------
    >>> remote_address(Path("https://example.org/a.svs"))
    'https://example.org/a.svs'
    >>> remote_address(Path("slides/a.svs"))
    """
    text = path.as_posix() if isinstance(path, Path) else str(path)
    found = _SCHEME.match(text)
    return None if found is None else f"{found[1].lower()}://{text[found.end() :]}"


def remote_name(address: str) -> str:
    """File name in an address, without a query.

    Examples
    --------
    >>> remote_name("https://example.org/slides/a%20b.svs?token=1")
    'a b.svs'
    """
    return unquote(urlsplit(address).path.rstrip("/").rpartition("/")[2]) or "slide"


def file_system(address: str) -> tuple[Any, str]:
    """File system of fsspec for an address, and the address in its terms.

    Raises
    ------
    SlideError
        fsspec, or what it needs for this kind of address, is not installed.
    """
    try:
        import fsspec

        system, inner = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise SlideError(
            f"{address}: to read from addresses, install the extra: "
            f"`pip install 'lymphinfer[remote]'` ({error})."
        ) from error
    except ValueError as error:
        raise SlideError(f"{address}: not an address that can be read ({error}).") from error
    return system, inner


class RemoteSource:
    """A file at an address. Threads may read at once.

    Parameters
    ----------
    address : str

    Raises
    ------
    SlideError
        It cannot be reached, or its server sends whole files only.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._system, self._inner = file_system(address)
        self._lock = threading.Lock()
        try:
            info = self._system.info(self._inner)
            self.size = int(info["size"])
        except FileNotFoundError as error:
            raise SlideError(f"{self}: no such file at this address.") from error
        # fsspec raises whatever the library below it raises.
        except Exception as error:
            raise SlideError(
                f"{self}: cannot be reached, or the server tells no size ({error}). Check the "
                "address and the network, or download the file first."
            ) from error
        self.version = (self.size, str(info.get("ETag") or info.get("LastModified") or ""))

    def __str__(self) -> str:
        # A query may hold a password or a signature.
        return self.address.partition("?")[0]

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource`."""
        end = min(offset + count, self.size)
        if end <= offset:
            return b""
        try:
            data = bytes(self._system.cat_file(self._inner, start=offset, end=end))
        except Exception as error:
            raise SlideError(
                f"{self}: bytes {offset:,} to {end:,} cannot be fetched ({error}). Check the "
                "network: the same command goes on where this one stopped."
            ) from error
        if len(data) != end - offset:
            raise SlideError(
                f"{self}: the server does not send parts of files (asked for {end - offset:,} "
                f"bytes, got {len(data):,}). Download the file first."
            )
        return data

    def open(self) -> Any:
        """See `ByteSource`."""
        return self._system.open(
            self._inner, "rb", block_size=_HEADER_BLOCK, cache_type="readahead"
        )

    def close(self) -> None:
        """See `ByteSource`. Connections are fsspec's own, and shared."""
