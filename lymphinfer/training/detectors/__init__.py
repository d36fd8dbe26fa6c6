"""Trainers of the detectors: what they share, and one module for each network."""
