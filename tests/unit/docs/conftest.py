"""The samples are put into the API server in memory that the fault campaign is run on."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "faults"))
