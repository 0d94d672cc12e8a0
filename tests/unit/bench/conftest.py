"""The benchmarks are modules of the folder bench, which no package installs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))
