"""CoreDNS as a process on the bridge's address; kubelets give that address to pods."""

import json

from cluster import certificates, processes, settings, tools

COREFILE = """
.:53 {{
    bind {address}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    forward . /etc/resolv.conf
    cache 5 {{
        denial 100 1
    }}
}}
"""
ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "anneal-local-dns"},
    "rules": [
        {
            "apiGroups": [""],
            "resources": ["services", "namespaces", "pods", "nodes"],
            "verbs": ["get", "list", "watch"],
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ],
}
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "anneal-local-dns"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "anneal-local-dns"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "anneal-dns"}],
}


def start() -> None:
    """Short caches: a headless Service's names must appear in seconds, for ranks to find each other."""
    if processes.alive("coredns"):
        return
    objects = {"apiVersion": "v1", "kind": "List", "items": [ROLE, BINDING]}
    tools.kubectl("apply", "-f", "-", text=json.dumps(objects))
    corefile = settings.STATE / "Corefile"
    kubeconfig = certificates.kubeconfig("coredns", "anneal-dns")
    corefile.write_text(COREFILE.format(address=settings.ADDRESS, kubeconfig=kubeconfig))
    processes.start("coredns", tools.binary("coredns"), "-conf", corefile)
