"""What made a slide's nuclei, as every file of them carries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTICE = "Research use only. Not for diagnosis."


def provenance(
    *,
    software: str,
    bundle: Mapping[str, Any],
    slide: Mapping[str, Any],
    hierarchy: str | None,
    evidence: Mapping[str, Any],
    operating_point: Mapping[str, Any] | None,
    warnings: Sequence[str],
    region: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put together what made a slide's nuclei.

    Parameters
    ----------
    software : str
        Name and version.
    bundle : mapping
        ``name``, ``version``, ``sha256``, and ``detector`` where it is another bundle's.
    slide : mapping
        ``identity``, ``mpp``, ``mpp_source``.
    hierarchy : str or None
    evidence : mapping
        By marker what stands behind its probability.
    operating_point : mapping or None
        From where nuclei were called.
    warnings : sequence of str
        What the reader of the numbers must know.
    region : mapping, optional
        To which the result is limited.

    Returns
    -------
    dict
        Ready for JSON.
    """
    detector = bundle.get("detector")
    return {
        "software": software,
        "bundle": bundle.get("name"),
        "bundle_version": bundle.get("version"),
        "bundle_sha256": bundle.get("sha256"),
        **({"detector": detector} if detector else {}),
        "slide_identity": slide.get("identity"),
        "mpp": slide.get("mpp"),
        "mpp_source": slide.get("mpp_source"),
        "hierarchy": hierarchy,
        "evidence": dict(evidence),
        **({"operating_point": dict(operating_point)} if operating_point else {}),
        "warnings": list(warnings),
        "notice": NOTICE,
        **({"region": dict(region)} if region else {}),
    }
