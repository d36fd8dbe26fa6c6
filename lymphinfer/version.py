"""The software's version: its one place. `tests/release` holds every other mention to it."""

__version__ = "0.2.0"
