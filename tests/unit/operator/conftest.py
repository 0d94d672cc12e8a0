"""Makes the helpers beside the tests importable, and the API server in memory that the fault campaign is run on."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "faults")]
