"""`memory_probe.py FOLDER SHAPE RANK TOKENS TYPE`: trains in this process, prints the most bytes it ever held.

A process of its own, as neither libraries nor the allocator give back what an earlier model made them take.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_runtime.chat import Encoded
from anneal_trainers.base import model
from anneal_trainers.data import dataset
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import Group
from anneal_trainers.records.store import Store
from anneal_trainers.training import loop
from anneal_trainers.training.run import Run, StopFlag

STEPS = 3


def main() -> None:
    folder, shape = Path(sys.argv[1]), json.loads(sys.argv[2])
    rank, tokens, kind = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    torch.manual_seed(0)
    network = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).to(torch.bfloat16)
    network.save_pretrained(folder / "base")
    del network
    spec = FineTuneJobSpec.model_validate(
        {
            "baseModel": {"uri": f"file://{folder}/base"},
            "tasks": [{"name": "rows", "data": {"uri": f"file://{folder}/rows.jsonl"}}],
            "data": {"maxLength": tokens},
            "adapter": {"rank": rank, "type": kind},
            "optimization": {"globalBatchTokens": 2 * tokens, "maxSteps": STEPS},
            "checkpoint": {"everySteps": 1},
            "output": {"uri": f"file://{folder}/store"},
        }
    )
    run = Run(
        spec=spec,
        tasks=["rows"],
        train=rows(tokens, shape["vocab_size"]),
        validation=dataset.SplitWriter(np.uint32).split(),
        trainee=model.build(folder / "base", spec.adapter, 0, model.pick_device(0)),
        group=Group(),
        store=Store(f"file://{folder}/runs", 1, "probe", 1),
        channel=Channel(None),
        stop=StopFlag(),
    )
    loop.train(run)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    print(int(found[1]) * 1024)


def rows(tokens: int, vocabulary: int) -> dataset.Split:
    """Rows enough for all steps, an eighth of a pack long on average, two thirds of each learned."""
    generator, writer, total = np.random.default_rng(0), dataset.SplitWriter(np.uint32), 0
    while total < 3 * STEPS * tokens:
        size = int(np.clip(generator.lognormal(np.log(tokens / 8), 0.9), 8, tokens))
        ids = generator.integers(0, vocabulary, size).tolist()
        learned = (np.arange(size) > size // 3).tolist()
        writer.add([Encoded(ids, learned)], 0, [generator.bytes(32)], None)
        total += size
    return writer.split()


if __name__ == "__main__":
    main()
