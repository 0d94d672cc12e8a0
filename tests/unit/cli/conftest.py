"""Tests of the commands import the objects beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
