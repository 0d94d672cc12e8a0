"""A run as this rank holds it: all that the loop, and what follows its steps, work on."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_trainers.base.model import Trainee
from anneal_trainers.data.dataset import Split
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import Group
from anneal_trainers.records.ledger import Ledger
from anneal_trainers.records.store import Store, Timer
from anneal_trainers.training import objective, stages
from anneal_trainers.training.meter import Meter

Rows = npt.NDArray[np.int64]


class StopFlag:
    """Set by SIGTERM; ranks agree on it in the sums of a step."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Let SIGTERM set the flag."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "asked", True))


@dataclass
class Run:
    """What the loop works on. `record` takes a step and its figures, on rank 0."""

    spec: FineTuneJobSpec
    tasks: list[str]
    train: Split
    validation: Split
    trainee: Trainee
    group: Group
    store: Store
    channel: Channel
    stop: StopFlag
    timer: Timer = field(default_factory=lambda: Timer(None))
    attempt: int = 1
    record: Callable[[int, dict[str, float]], None] = lambda step, values: None
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        # Before anything is restored: the reference of a preference run is what it starts from.
        self.goal = objective.make(self.spec.optimization, self.trainee)
        self.meter = Meter(
            self.goal,
            self.trainee,
            self.spec.data,
            len(self.tasks),
            self.group,
            self.channel,
            in_step=self.spec.workers.strategy == "fsdp",
            stopping=lambda: self.stop.asked,
        )
        self.phases = stages.phases(self.spec, self.tasks, self.train, self.validation)
        self.watched = first_rows(self.validation, self.spec.optimization.coba.rows)

    @property
    def leads(self) -> bool:
        """Whether this rank writes what all of them hold alike."""
        return self.group.rank == 0


def first_rows(split: Split, count: int) -> Rows:
    """Return the rows of the first `count` units of each task, by digest: CoBa measures the same at every update."""
    order = sorted(range(len(split.units) - 1), key=lambda unit: split.digests[split.units[unit]].tobytes())
    by_task: dict[int, list[int]] = {}
    for unit in order:
        by_task.setdefault(int(split.unit_tasks[unit]), []).append(unit)
    return split.rows_of(np.asarray([unit for units in by_task.values() for unit in units[:count]], np.int64))
