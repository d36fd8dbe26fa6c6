import sys
from pathlib import Path

# The views are tested on the same made nuclei as the table.
sys.path.append(str(Path(__file__).parents[1] / "cells"))
