"""etcd, API server, controller manager, scheduler: processes of this machine on the bridge's address."""

import json
import pathlib
import signal
import ssl
import urllib.error
import urllib.request

from cluster import certificates, processes, settings, shell, tools

ETCD = "http://127.0.0.1:23790"
# A lost node is NotReady after this; the default of 50 s makes every test of a fault slow.
NODE_GRACE = "16s"


def start() -> None:
    """Start what does not run, wait until the API server is ready."""
    certificates.authority()
    certificates.server()
    certificates.kubeconfig("admin", "anneal-admin", "system:masters", settings.KUBECONFIG)
    certificates.kubeconfig(
        "kube-proxy", "system:kube-proxy"
    )  # one for all nodes, which start at the same time
    etcd()
    api_server()
    controller_manager()
    scheduler()
    shell.wait("API server", lambda: processes.require("kube-apiserver") and ready())


def restart() -> None:
    """etcd and the API server end without a word and come back with what etcd has written."""
    lost = ("kube-apiserver", "etcd")
    processes.kill([pid for name in lost if (pid := processes.pid_of(name))], signal.SIGKILL)
    processes.stop(*lost)
    etcd()
    api_server()
    shell.wait("API server", lambda: processes.require("kube-apiserver") and ready())


def etcd() -> None:
    """One member, whose data outlives a restart of the control plane."""
    folder = settings.STATE / "etcd"
    processes.start("etcd", *etcd_command(folder, ETCD, "http://127.0.0.1:23800"))


def etcd_command(folder: pathlib.Path, clients: str, peers: str) -> list[object]:
    """An etcd of one member by its data folder and URLs. No fsync: it is made anew rather than recovered."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return [
        tools.binary("etcd"),
        f"--data-dir={folder}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--log-level=warn",
    ]


def api_server() -> None:
    """Node authorisation and Pod Security as in any real cluster."""
    pki = settings.PKI
    keys = (pki / "service-accounts.key", pki / "service-accounts.pub")
    processes.start(
        "kube-apiserver",
        *api_server_command(ETCD, settings.ADDRESS, 6443, *keys),
        f"--advertise-address={settings.ADDRESS}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--event-ttl=3h",
        f"--audit-policy-file={_audit_policy()}",
        f"--audit-log-path={settings.LOGS / 'audit.log'}",
        "--audit-log-maxsize=50",
        "--audit-log-maxbackup=1",
    )


def api_server_command(
    etcd: str, address: str, port: int, private: pathlib.Path, public: pathlib.Path
) -> list[object]:
    """An API server over an etcd, by the key pair of its service accounts; who may do what is left to the caller."""
    return [
        tools.binary("kube-apiserver"),
        f"--etcd-servers={etcd}",
        f"--bind-address={address}",
        f"--secure-port={port}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={public}",
        f"--service-account-signing-key-file={private}",
        f"--service-cluster-ip-range={settings.SERVICE_NETWORK}",
    ]


def _audit_policy() -> pathlib.Path:
    """Who wrote what and when, for pods in the operator's namespace."""
    path = settings.STATE / "audit-policy.json"
    rules = [
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts:anneal-system"]},
        {"level": "None"},
    ]
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": rules,
    }
    path.write_text(json.dumps(policy))
    return path


def controller_manager() -> None:
    """With credentials of its own for each controller, so that missing roles show here and not in production."""
    processes.start(
        "kube-controller-manager",
        tools.binary("kube-controller-manager"),
        f"--kubeconfig={certificates.kubeconfig('controller-manager', 'system:kube-controller-manager')}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={settings.PKI / 'service-accounts.key'}",
        f"--root-ca-file={settings.PKI / 'ca.crt'}",
        f"--node-monitor-grace-period={NODE_GRACE}",
        "--node-monitor-period=2s",
    )


def scheduler() -> None:
    """One is enough: no election."""
    processes.start(
        "kube-scheduler",
        tools.binary("kube-scheduler"),
        f"--kubeconfig={certificates.kubeconfig('scheduler', 'system:kube-scheduler')}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    )


def ready() -> bool:
    """What the API server says of itself."""
    try:
        context = ssl.create_default_context(cafile=str(settings.PKI / "ca.crt"))
        return bool(
            urllib.request.urlopen(f"{settings.API_SERVER}/readyz", context=context, timeout=2).status == 200
        )
    except (urllib.error.URLError, OSError):
        return False
