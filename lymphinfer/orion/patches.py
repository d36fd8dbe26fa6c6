"""Cut the sampled cells' patches from a slide's pyramid into a patch store."""

from __future__ import annotations

from lymphinfer.orion.patch_store import PatchStore, StoreCells, StoreInfo
from lymphinfer.orion.patch_writer import PatchWriter

__all__ = ["PatchStore", "PatchWriter", "StoreCells", "StoreInfo"]
