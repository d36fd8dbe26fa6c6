"""Bundles: a detector, a marker model, and a statement of what stands behind each marker."""
