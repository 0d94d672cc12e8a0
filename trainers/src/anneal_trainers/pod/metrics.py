"""/metrics: where a run stands, in Prometheus's text format.

The figures are those of the curves (`loop.figures`), so that a dashboard and TensorBoard show the same; tables
here give them Prometheus names. A figure by task, `weight/sums`, becomes a label.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

PLAIN = {
    "step": ("step", "Finished optimizer steps."),
    "total_steps": ("steps_planned", "Optimizer steps until the run is over, unless it stops early."),
    "train/loss": ("loss", "Weighted loss of the last step, as it was before it."),
    "train/gradient_norm": ("gradient_norm", "Norm of the last step's gradient before clipping."),
    "validation/loss": ("validation_loss", "Weighted loss of the last validation."),
    "learning_rate": ("learning_rate", "Learning rate of the last step."),
    "tokens_per_second": ("tokens_per_second", "Tokens of the last step by its seconds, over all workers."),
    "step_seconds": ("step_seconds", "Seconds between the ends of the last two steps."),
    "skipped": ("skipped_steps", "Steps whose gradient was not finite and that changed nothing."),
    "checkpoint_stall_seconds": (
        "checkpoint_stall_seconds",
        "Seconds of this attempt that steps waited for checkpoints.",
    ),
    "restarts": ("restarts", "Attempts of the group before this one."),
    "silence_seconds": ("silence_seconds", "Seconds since the last heartbeat of the rank silent longest."),
}
BY_TASK = {
    "train/task": ("task_train_loss", "Mean loss of a learned token in the last step that had some."),
    "validation/task": ("task_loss", "Mean loss of a learned token in the last validation."),
    "weight": ("task_weight", "Weight of the task in the loss of the next step."),
    "share": ("task_share", "Share of the sampled tokens that is the task's."),
    "passes": ("task_passes", "Times the rows of the task have been taken in this stage."),
}


def text(figures: Mapping[str, float]) -> bytes:
    """Return the figures in tables above, those there are, in the text format."""
    registry = CollectorRegistry()
    registry.register(_Families([*_plain(figures), *_by_task(figures)]))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


def _plain(figures: Mapping[str, float]) -> Iterator[GaugeMetricFamily]:
    for figure, (name, meaning) in PLAIN.items():
        if figure in figures:
            yield GaugeMetricFamily(f"anneal_train_{name}", meaning, figures[figure])


def _by_task(figures: Mapping[str, float]) -> Iterator[GaugeMetricFamily]:
    for group, (name, meaning) in BY_TASK.items():
        family = GaugeMetricFamily(f"anneal_train_{name}", meaning, labels=["task"])
        for figure, value in figures.items():
            if figure.startswith(f"{group}/"):
                family.add_metric([figure.removeprefix(f"{group}/")], value)
        if family.samples:
            yield family
