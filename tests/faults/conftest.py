"""Makes the helpers beside the tests importable, and the operator's unit tests' world."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "unit" / "operator")]
