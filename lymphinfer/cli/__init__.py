"""The command line: parsing and printing, no logic."""

from lymphinfer.cli.app import main

__all__ = ["main"]
