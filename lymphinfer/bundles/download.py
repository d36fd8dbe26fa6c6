"""Fetching weights: resumed after a cut connection, and kept only with the right hash."""

from __future__ import annotations

import shutil
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path

from lymphinfer.bundles.schema import MANIFEST, BundleManifest, read_manifest
from lymphinfer.downloading import (
    FileSource,
    HttpSource,
    OnBytes,
    Source,
    download,
    sha256_of,
    silent,
)
from lymphinfer.errors import BundleError

SCHEMES = ("https", "http", "file")
CARD = "CARD.md"


def source_of(url: str) -> Source:
    """Where an ``https``, ``http`` or ``file`` address leads; BundleError for another."""
    split = urllib.parse.urlsplit(url)
    if split.scheme not in SCHEMES:
        raise BundleError(f"{url}: not an address that can be fetched; use https://…")
    if split.scheme == "file":
        return FileSource(Path(urllib.request.url2pathname(split.path)))
    return HttpSource(url)


def fetch(
    url: str, path: Path, *, sha256: str | None, on_bytes: OnBytes = silent, wait_s: float = 1.0
) -> Path:
    """Download a file of weights, see `lymphinfer.downloading.download`.

    Returns
    -------
    Path
        `path`; a file already there with the right hash is not fetched again.

    Raises
    ------
    BundleError, ResultError
        As `download` raises them.
    """
    source = source_of(url)
    if sha256 is not None and path.is_file() and sha256_of(path) == sha256:
        return path
    return download(
        source, path, error=BundleError, sha256=sha256, on_bytes=on_bytes, wait_s=wait_s
    )


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
    source_of(url)
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
