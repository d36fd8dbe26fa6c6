"""Nuclei: detectors, their training data and quality, and outlines fit for a file."""
