"""Reading a resource's children: by label, then by owner UID."""

from anneal_operator import naming
from anneal_operator.cluster.interface import Cluster
from anneal_operator.decision import Object
from anneal_operator.observed import Children, children


def read_children(cluster: Cluster, resource: Object, label: str, *, serving: bool = False) -> Children:
    """Return the children of `resource`, read live."""
    meta = resource["metadata"]
    selector = f"{label}={naming.label_value(meta['name'])}"
    kinds = ["Job", "Pod", "ConfigMap", *(["Deployment", "Service"] if serving else [])]
    found = [cluster.select(kind, meta["namespace"], selector) for kind in kinds]
    return children(meta["uid"], *found)
