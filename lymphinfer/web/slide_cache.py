"""The slides that the page holds in memory: the last few, and the next one ahead of time."""

from __future__ import annotations

import threading
from collections import OrderedDict

from lymphinfer.orion.cohort import Cohort, OrionSlide
from lymphinfer.panel import Panel
from lymphinfer.web.pictures import CellPictures
from lymphinfer.web.slide_view import SlideView

MAX_SLIDES = 3


class SlideCache:
    """Slides by name, read when they are first asked for. Threads may share it.

    Parameters
    ----------
    cohort : Cohort
    panel : Panel
    """

    def __init__(self, cohort: Cohort, panel: Panel) -> None:
        self._slides: dict[str, OrionSlide] = {s.folder: s for s in cohort.slides}
        self._panel = panel
        self._views: OrderedDict[str, SlideView] = OrderedDict()
        self._pictures = {s.folder: CellPictures(s) for s in cohort.slides}
        self._lock = threading.Lock()
        self._loading = {folder: threading.Lock() for folder in self._slides}

    def view(self, folder: str) -> SlideView:
        """Intensities of a slide; DataError where its cell table cannot be used."""
        with self._loading[folder]:
            with self._lock:
                if folder in self._views:
                    self._views.move_to_end(folder)
                    return self._views[folder]
            slide = self._slides[folder]
            view = SlideView(slide.cells, self._panel, slide.table_format, slide.layout)
            with self._lock:
                self._views[folder] = view
                if len(self._views) > MAX_SLIDES:
                    oldest, _ = self._views.popitem(last=False)
                    self._pictures[oldest].close()
            return view

    def pictures(self, folder: str) -> CellPictures:
        """Pictures of a slide's cells."""
        return self._pictures[folder]

    def close(self) -> None:
        """Release every file."""
        for pictures in self._pictures.values():
            pictures.close()
