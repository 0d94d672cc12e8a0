"""Out of memory, as a person needs it told: which micro-batch, how much was asked for, and what to change.

Two ways lead here. An allocator refuses, and the rank raises (`explained`); or the kernel kills the rank, and
its launcher knows from the container's memory.events and the last heartbeat, or, killed
with it, has left word before. No torch here: the launcher has none.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_trainers.pod.channel import Channel

_REFUSALS = re.compile(
    r"out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|unable to allocate", re.I
)
_ASKED = re.compile(r"(?:tried to allocate|unable to allocate) ([\d.]+ \w+)", re.I)
_EVENTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
"""Of the container itself, in cgroup v2 and v1: both count the kernel's kills in a line `oom_kill N`."""


class OutOfMemory(RuntimeError):
    """Memory ran out in a micro-batch; the message says which, how much was asked for and what to change."""


@contextmanager
def explained(channel: Channel, spec: FineTuneJobSpec) -> Iterator[None]:
    """Raise OutOfMemory instead of an allocator's own error: it names what the rank last said it would do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_refusal(error):
            raise
        raise OutOfMemory(describe(spec, channel.phase, channel.batch, asked(error))) from error


def is_refusal(error: BaseException) -> bool:
    """Say whether an allocator of torch (CPU or accelerator), CUDA's libraries, numpy or Python gave up."""
    return isinstance(error, MemoryError) or bool(_REFUSALS.search(str(error)))


def asked(error: BaseException) -> str:
    """Return how much was asked for, as the allocator puts it, or nothing where it does not say."""
    found = _ASKED.search(str(error))
    return found[1] if found else ""


def describe(spec: FineTuneJobSpec, phase: str, batch: str, asked: str = "") -> str:
    """Return the message for a person; `batch` and `asked` may be empty where nothing is known of them."""
    where = f"in phase {phase}" + (f", micro-batch of {batch}" if batch else "")
    wanted = f", when {asked} more were asked for" if asked else ""
    return f"memory ran out {where}{wanted}. {_remedies(spec)}"


def last_words(spec: FineTuneJobSpec, phase: str, batch: str) -> str:
    """Return what is left for a reader when the kernel kills the whole container: nobody else can speak then."""
    return f"last heard in phase {phase}, micro-batch of {batch}. If memory ran out: {_remedies(spec)}"


def kills() -> int:
    """Return how many processes of this container the kernel has killed for memory."""
    found = (Path(name) for name in _EVENTS)
    texts = [path.read_text() for path in found if path.is_file()]
    return sum(int(count) for text in texts for count in re.findall(r"^oom_kill (\d+)$", text, re.M))


def _remedies(spec: FineTuneJobSpec) -> str:
    """Return what makes a micro-batch or the model smaller, what helps most first."""
    data, workers = spec.data, spec.workers
    remedies = [f"lower spec.data.maxLength (now {data.max_length}), which bounds a micro-batch"]
    if data.packing == "none":
        remedies.append("set spec.data.packing to bestFit, so that no position is padding")
    if spec.adapter.type == "lora":
        remedies.append("set spec.adapter.type to qlora, which holds the base in four bits")
    if workers.strategy == "ddp":
        remedies.append("set spec.workers.strategy to fsdp, which divides the base among the workers")
    else:
        remedies.append(f"raise spec.workers.nodes (now {workers.nodes}), among which the base is divided")
    remedies.append(f"lower spec.adapter.rank (now {spec.adapter.rank})")
    return ", or ".join(remedies) + "."
