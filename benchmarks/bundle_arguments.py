"""Which bundle is measured, and how it runs: the arguments that benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path

from lymphinfer.bundles.evidence import DEFAULT_POINT, OPERATING_POINTS
from lymphinfer.bundles.loading import Bundle, load_bundle
from lymphinfer.engine import choose_engine


def add_bundle_arguments(parser: argparse.ArgumentParser, bundle: str) -> None:
    """Add them; `bundle` is the one that is measured by default."""
    parser.add_argument("--bundle", default=bundle)
    parser.add_argument("--operating-point", default=DEFAULT_POINT, choices=OPERATING_POINTS)
    for name in ("--device", "--precision", "--runtime"):
        parser.add_argument(name, default="auto")
    parser.add_argument("--json", type=Path)


def open_bundle(arguments: argparse.Namespace, *, trainable: bool = False) -> Bundle:
    """The bundle as the arguments say: as predictions use it, or with its networks in torch."""
    engine = choose_engine(arguments.device, arguments.precision, arguments.runtime)
    return load_bundle(arguments.bundle, engine=engine, trainable=trainable)
