"""Logs of all pods of a group, in the order in which the lines were printed."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from anneal_api.base import LABEL_ATTEMPT, LABEL_STAGE
from anneal_cli.kubectl import Object

INDEX = "batch.kubernetes.io/job-completion-index"
"""The label by which an Indexed Job tells its pods apart: the rank of the node."""


@dataclass(frozen=True, order=True)
class Line:
    """One line; lines compare by time first."""

    time: str
    source: str
    text: str

    def __str__(self) -> str:
        return f"{self.time[:19]} {self.source:>6} | {self.text}"


def source(pod: Object) -> str:
    """Return the short name of a pod within its run: attempt and node rank, or the stage's name."""
    labels = pod["metadata"].get("labels", {})
    if LABEL_ATTEMPT in labels:
        return f"{labels[LABEL_ATTEMPT]}/{labels.get(INDEX, '0')}"
    return str(labels.get(LABEL_STAGE, pod["metadata"]["name"]))


def parsed(source: str, lines: Iterable[str]) -> Iterator[Line]:
    """Yield the lines that `kubectl logs --timestamps` prints of one pod."""
    for line in lines:
        time, _, text = line.partition(" ")
        yield Line(time, source, text)


def merged(streams: Mapping[str, Iterable[str]]) -> Iterator[Line]:
    """Yield the lines of all pods by time; those of one pod keep their order, whatever their clocks say."""
    return heapq.merge(*(parsed(name, lines) for name, lines in streams.items()), key=lambda line: line.time)


def followed(lines: Iterable[str], sources: Mapping[str, str]) -> Iterator[Line]:
    """Yield what `kubectl logs --follow --prefix --timestamps` prints of many pods, as it comes.

    A line begins with `[pod/NAME/CONTAINER] `; `sources` maps NAME to the pod's short name.
    """
    for line in lines:
        prefix, _, rest = line.partition("] ")
        name = prefix.removeprefix("[pod/").split("/", 1)[0]
        yield from parsed(sources.get(name, name), [rest])
