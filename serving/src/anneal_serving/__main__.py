"""`python3 -m anneal_serving STAGE`: what the pods of a ModelDeployment run.

A stage's module is imported only when it is asked for: the serving image has no torch, the trainers
image no OpenVINO, and inspect must answer in seconds.
"""

import importlib
import sys
from collections.abc import Callable
from typing import cast

from anneal_api.outcome import EXIT_CONFIG

STAGES = {
    "inspect": "anneal_serving.inspect_stage",
    "quantize": "anneal_serving.quantize",
    "engine": "anneal_serving.engine",
    "gate": "anneal_serving.gate",
    "serve": "anneal_serving.triton.serve",
    "gateway": "anneal_serving.gateway.app",
}


def main(arguments: list[str]) -> int:
    """Run the stage that `arguments` name and return its exit code."""
    if len(arguments) != 1 or arguments[0] not in STAGES:
        print(f"usage: python3 -m anneal_serving {{{','.join(STAGES)}}}", file=sys.stderr)
        return EXIT_CONFIG
    stage = cast(Callable[[], int | None], importlib.import_module(STAGES[arguments[0]]).main)
    return stage() or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
