"""Fetching weights: resumed after a cut connection, and kept only with the right hash."""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lymphinfer.bundles.loading import sha256_of
from lymphinfer.bundles.schema import MANIFEST, BundleManifest, read_manifest
from lymphinfer.errors import BundleError

SCHEMES = ("https", "http", "file")
CARD = "CARD.md"
TRIES = 5
BLOCK_BYTES = 1 << 20
TIMEOUT_S = 30.0

OnBytes = Callable[[str, int, int], None]
"""Told the file's name, the bytes that are there, and all of them (0 where unknown)."""


def silent(name: str, done: int, total: int) -> None:
    """Tell nobody, as an `OnBytes`."""


def _check_scheme(url: str) -> None:
    if urllib.parse.urlsplit(url).scheme not in SCHEMES:
        raise BundleError(f"{url}: not an address that can be fetched; use https://…")


def fetch(
    url: str, path: Path, *, sha256: str | None, on_bytes: OnBytes = silent, wait_s: float = 1.0
) -> Path:
    """Download a file, going on where an earlier or cut try stopped.

    Parameters
    ----------
    url : str
        ``https``, ``http`` or ``file``.
    path : Path
        Where it will be. Until it is whole it lies beside it as ``<name>.part``.
    sha256 : str or None
        Hex; None only for what is checked otherwise.
    on_bytes : callable
    wait_s : float
        Pause before the second try, doubled at each further one.

    Returns
    -------
    Path
        `path`; a file already there with the right hash is not fetched again.

    Raises
    ------
    BundleError
        No network, not found, or another hash than expected; what was fetched with a wrong hash is
        removed.
    """
    _check_scheme(url)
    if sha256 is not None and path.is_file() and sha256_of(path) == sha256:
        return path
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(TRIES):
        try:
            if _continue(url, part, on_bytes):
                break
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)
                continue
            if error.code < http.client.INTERNAL_SERVER_ERROR:
                raise BundleError(
                    f"{url}: the server answers {error.code} {error.reason}"
                ) from error
            reason: Exception = error
        except (OSError, http.client.HTTPException) as error:
            reason = error
        else:
            reason = ConnectionError("the connection was cut")
        if attempt + 1 < TRIES:
            time.sleep(wait_s * 2**attempt)
    else:
        raise BundleError(
            f"{url}: could not be fetched after {TRIES} tries ({_words(reason)}). Check the "
            "network and give the same command again: it goes on from what is there. Without a "
            f"network, fetch the file on another machine and put it at {path}."
        )
    if sha256 is not None and (found := sha256_of(part)) != sha256:
        part.unlink()
        raise BundleError(
            f"{url}: has sha256 {found[:12]}…, expected {sha256[:12]}…; it was not kept. It is "
            "damaged or not the published file."
        )
    part.replace(path)
    return path


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(reason) or type(error).__name__


def _continue(url: str, part: Path, on_bytes: OnBytes) -> bool:
    """Append what is missing; False where the connection was cut before the end."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "lymphinfer"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
        resumed = reply.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length is not None else 0
        name = part.name.removesuffix(".part")
        with part.open("ab" if resumed else "wb") as stream:
            while block := reply.read(BLOCK_BYTES):
                stream.write(block)
                have += len(block)
                on_bytes(name, have, total)
    return not total or have == total


def pull_bundle(
    url: str, root: Path, *, sha256: str | None = None, on_bytes: OnBytes = silent
) -> BundleManifest:
    """Download a bundle into a folder of bundles, whole or not at all.

    Parameters
    ----------
    url : str
        Of the bundle's folder, or of its ``bundle.toml``.
    root : Path
        The bundle becomes ``root/<name>``.
    sha256 : str, optional
        Of ``bundle.toml``, as its publisher gives it: then nobody between can have changed a byte.
    on_bytes : callable

    Returns
    -------
    BundleManifest

    Raises
    ------
    BundleError
        As `fetch`; or the manifest is not a bundle's; or another bundle of that name is there.
    """
    _check_scheme(url)
    folder_url = url.removesuffix(MANIFEST).rstrip("/") + "/"
    stem = Path(urllib.parse.urlsplit(folder_url).path.rstrip("/")).name or "bundle"
    staging = root / f".{stem}.part"
    # The manifest is small and may have changed since an earlier try: the weights have its hashes.
    (staging / MANIFEST).unlink(missing_ok=True)
    fetch(folder_url + MANIFEST, staging / MANIFEST, sha256=sha256, on_bytes=on_bytes)
    manifest = read_manifest(staging)
    target = root / manifest.name
    if target.exists():
        present = read_manifest(target)
        if present.sha256 != manifest.sha256:
            raise BundleError(
                f"{target}: another bundle of this name is there (version {present.version}, not "
                f"{manifest.version}); remove that folder first"
            )
    for name, expected in manifest.files.items():
        fetch(folder_url + name, staging / name, sha256=expected, on_bytes=on_bytes)
    with suppress(BundleError):
        fetch(folder_url + CARD, staging / CARD, sha256=None, on_bytes=on_bytes)
    if target.exists():
        shutil.rmtree(target)
    staging.replace(target)
    return read_manifest(target)
