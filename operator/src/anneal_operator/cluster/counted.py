"""A cluster whose writes are counted, by verb and kind, once they have succeeded."""

from anneal_operator.cluster.interface import Cluster
from anneal_operator.decision import Object
from anneal_operator.metrics import Metrics


class CountedCluster(Cluster):
    """Passes everything on."""

    def __init__(self, cluster: Cluster, metrics: Metrics) -> None:
        self._cluster = cluster
        self._metrics = metrics

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        return self._cluster.get(kind, namespace, name)

    def recall(self, kind: str, namespace: str, name: str) -> Object | None:
        return self._cluster.recall(kind, namespace, name)

    def select(self, kind: str, namespace: str | None, selector: str = "", fields: str = "") -> list[Object]:
        return self._cluster.select(kind, namespace, selector, fields)

    def create(self, obj: Object) -> Object:
        return self._counted("create", obj["kind"], self._cluster.create(obj))

    def apply(self, obj: Object) -> Object:
        return self._counted("apply", obj["kind"], self._cluster.apply(obj))

    def delete(self, kind: str, namespace: str, name: str, uid: str, version: str = "") -> None:
        self._cluster.delete(kind, namespace, name, uid, version)
        self._metrics.count("anneal_writes_total", verb="delete", kind=kind)

    def update_status(self, obj: Object) -> Object:
        return self._counted("update_status", obj["kind"], self._cluster.update_status(obj))

    def set_finalizers(self, obj: Object, finalizers: list[str]) -> Object:
        return self._counted("set_finalizers", obj["kind"], self._cluster.set_finalizers(obj, finalizers))

    def _counted(self, verb: str, kind: str, written: Object) -> Object:
        self._metrics.count("anneal_writes_total", verb=verb, kind=kind)
        return written
