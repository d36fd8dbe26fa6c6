"""``python -m lymphinfer``."""

from lymphinfer.cli.app import main

main()
