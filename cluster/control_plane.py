"""etcd, API server, controller manager, scheduler: processes of this machine on the bridge's address."""

import json
import pathlib
import signal
import ssl
import urllib.error
import urllib.request

from cluster import certificates, processes, settings, shell, tools

Rule = dict[str, object]
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
    # The controller manager ends where the API server is not there within ten seconds: a busy machine takes longer.
    shell.wait("API server", lambda: processes.require("kube-apiserver") and ready())
    controller_manager()
    scheduler()


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
    processes.start("etcd", *etcd_of(settings.LOCAL))


def etcd_of(place: settings.Place) -> list[object]:
    """The etcd of a control plane."""
    return etcd_command(place.state / "etcd", place.etcd, f"http://127.0.0.1:{place.etcd_port + 10}")


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
    """Audited: who wrote what and when, for pods in the operator's namespace."""
    audited: list[Rule] = [
        {"level": "Metadata", "userGroups": ["system:serviceaccounts:anneal-system"]},
        {"level": "None"},
    ]
    processes.start("kube-apiserver", *api_server_of(settings.LOCAL, audited))


def api_server_of(place: settings.Place, audited: list[Rule]) -> list[object]:
    """Node authorisation and Pod Security as in any real cluster; `audited` are audit rules about writes."""
    pki = place.pki
    keys = (pki / "service-accounts.key", pki / "service-accounts.pub")
    return [
        *api_server_command(place.etcd, place.address, place.api_port, *keys),
        f"--advertise-address={place.address}",
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
        f"--audit-policy-file={_audit_policy(place, audited)}",
        f"--audit-log-path={place.logs / 'audit.log'}",
        "--audit-log-maxsize=50",
        "--audit-log-maxbackup=1",
    ]


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


def _audit_policy(place: settings.Place, audited: list[Rule]) -> pathlib.Path:
    path = place.state / "audit-policy.json"
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "None", "verbs": ["get", "list", "watch"]}, *audited],
    }
    path.write_text(json.dumps(policy))
    return path


def controller_manager() -> None:
    """A lost node is noticed soon."""
    noticed = (f"--node-monitor-grace-period={NODE_GRACE}", "--node-monitor-period=2s")
    processes.start("kube-controller-manager", *controller_manager_of(settings.LOCAL), *noticed)


def controller_manager_of(place: settings.Place) -> list[object]:
    """With credentials of its own for each controller, so that missing roles show here and not in production."""
    user = certificates.kubeconfig("controller-manager", "system:kube-controller-manager", place=place)
    return [
        tools.binary("kube-controller-manager"),
        f"--kubeconfig={user}",
        "--bind-address=127.0.0.1",
        f"--secure-port={place.manager_port}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={place.pki / 'service-accounts.key'}",
        f"--root-ca-file={place.pki / 'ca.crt'}",
    ]


def scheduler() -> None:
    """One is enough: no election."""
    processes.start(
        "kube-scheduler",
        tools.binary("kube-scheduler"),
        f"--kubeconfig={certificates.kubeconfig('scheduler', 'system:kube-scheduler')}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    )


def ready(place: settings.Place = settings.LOCAL) -> bool:
    """What the API server says of itself."""
    try:
        context = ssl.create_default_context(cafile=str(place.pki / "ca.crt"))
        url = f"{place.api_server}/readyz"
        return bool(urllib.request.urlopen(url, context=context, timeout=2).status == 200)
    except (urllib.error.URLError, OSError):
        return False
