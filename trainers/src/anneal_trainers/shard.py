"""One pod of an Indexed Job: the shard of the data that its completion index names, published under a key of its own.

A shard that is published is not made again, one that is not whole is nowhere, and its bytes depend on its files alone; so
pods may be killed and started again at will.
"""

import os

from anneal_api.outcome import PublishResult
from anneal_api.runs import ENV_NODE_RANK, FineTuneRun
from anneal_runtime.stage import run_stage
from anneal_trainers import prepare


def main() -> int:
    """Run the stage of this pod."""
    return run_stage(shard, FineTuneRun)


def shard(run: FineTuneRun) -> PublishResult:
    """Publish this pod's shard."""
    return prepare.shard(run, int(os.environ[ENV_NODE_RANK]))
