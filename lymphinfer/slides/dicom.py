"""What a DICOM file says of the slide that it belongs to, from its first kilobytes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

_DICOM_SUFFIXES = (".dcm", ".dicom")
_MAGIC_AT, _MAGIC = 128, b"DICM"
# Image Type, value 3 (DICOM PS3.3, C.8.12.4.1.1), of what is no scan of tissue.
_NO_SCAN = {"LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER"}
_LAST_TAG = 0x0020000E


@dataclass(frozen=True)
class DicomFile:
    """One file of a DICOM slide.

    Attributes
    ----------
    series : str
        Series Instance UID: equal for all files of a slide.
    flavour : str
        Value 3 of the Image Type: ``VOLUME``, ``LABEL``, ``OVERVIEW``, ``THUMBNAIL``; empty where
        the file does not say.
    """

    series: str
    flavour: str

    @property
    def is_scan(self) -> bool:
        """Whether it holds a level of the scan."""
        return self.flavour not in _NO_SCAN


def looks_like_dicom(path: Path) -> bool:
    """Whether a file is called like DICOM."""
    return path.suffix.lower() in _DICOM_SUFFIXES


def read_dicom_file(path: Path) -> DicomFile | None:
    """Read the header of a DICOM file; None for what is none or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_MAGIC_AT + len(_MAGIC))
            if head[_MAGIC_AT:] != _MAGIC:
                return None
            from pydicom.filereader import read_partial

            file.seek(0)
            # UIDs of archives are longer than the standard allows; pydicom says so of each.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = read_partial(file, stop_when=lambda tag, vr, length: tag > _LAST_TAG)
                series = str(dataset.get("SeriesInstanceUID", "") or "")
                types = [str(value).upper() for value in dataset.get("ImageType", None) or ()]
    # pydicom raises whatever a damaged file leads it into: such a file fails when it is opened.
    except Exception:
        return None
    # THUMBNAIL stands third in slides and RESAMPLED fourth; older writers shift them.
    flavour = types[2] if len(types) > 2 else ""
    return DicomFile(series, flavour)
