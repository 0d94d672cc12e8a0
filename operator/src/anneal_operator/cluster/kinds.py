"""Where each kind of object lives in the API."""

from anneal_api.base import API_VERSION

KINDS: dict[str, tuple[str, str]] = {
    "FineTuneJob": (API_VERSION, "finetunejobs"),
    "ModelDeployment": (API_VERSION, "modeldeployments"),
    "Job": ("batch/v1", "jobs"),
    "Pod": ("v1", "pods"),
    "ConfigMap": ("v1", "configmaps"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "Event": ("v1", "events"),
    "Deployment": ("apps/v1", "deployments"),
    "Role": ("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "Node": ("v1", "nodes"),
    "Workload": ("kueue.x-k8s.io/v1beta1", "workloads"),
}
"""Kind to API version and plural; a Workload is Kueue's."""


def path(kind: str, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """Return the URL path of an object, or of a collection."""
    version, plural = KINDS[kind]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    parts = [root, *(["namespaces", namespace] if namespace else []), plural]
    return "/".join([*parts, *(part for part in (name, subresource) if part)])
