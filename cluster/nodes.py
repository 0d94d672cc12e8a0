"""A node: containerd, kubelet and kube-proxy in a network namespace of their own."""

import calendar
import contextlib
import json
import os
import pathlib
import shutil
import signal
import time

from cluster import certificates, containerd, network, preload, processes, settings, shell, tools

CGROUPS = pathlib.Path("/sys/fs/cgroup")
ACCELERATOR = "nvidia.com/gpu"


def start(node: settings.Node) -> None:
    """Bring a node up, new or after a failure; returns when it is Ready and has its accelerators."""
    network.connect(node)
    cgroups(node)
    preload.clone(node)
    interfaces = node.state / "cni"
    interfaces.mkdir(parents=True, exist_ok=True)
    (interfaces / "10-anneal.conflist").write_text(json.dumps(pod_network(node)))
    containerd.start(f"{node.name}-containerd", node.containerd, node.run, interfaces, node.namespace)
    kube_proxy(node)
    if not processes.alive(f"{node.name}-kubelet"):
        mark = time.time()
        kubelet(node)
        shell.wait(
            f"{node.name} Ready", lambda: processes.require(f"{node.name}-kubelet") and ready(node, mark)
        )
        give_accelerators(node)


def stop(node: settings.Node) -> None:
    """A node that loses power: everything of it ends at once and nothing is said to anyone."""
    pids = [processes.pid_of(f"{node.name}-{daemon}") for daemon in ("kubelet", "kube-proxy", "containerd")]
    processes.kill([pid for pid in pids if pid], signal.SIGKILL)
    processes.kill(shims(node), signal.SIGKILL)
    for _ in range(20):
        members = pids_in_cgroups(node)
        processes.kill(members, signal.SIGKILL)
        if not members:
            break
        time.sleep(0.1)
    processes.stop(*(f"{node.name}-{daemon}" for daemon in ("kubelet", "kube-proxy", "containerd")))


def remove(node: settings.Node) -> None:
    """Take a node out of the cluster."""
    stop(node)
    with contextlib.suppress(shell.CommandError):
        tools.kubectl("delete", "node", node.name, "--ignore-not-found")


def running() -> list[settings.Node]:
    """The nodes whose kubelet runs."""
    return [node for node in settings.nodes(9) if processes.alive(f"{node.name}-kubelet")]


def known() -> list[settings.Node]:
    """The nodes that were ever started, also those that are stopped."""
    return [node for node in settings.nodes(9) if node.state.exists()]


def cgroups(node: settings.Node) -> None:
    """The node's own group in every version-1 controller. cpuset starts empty and refuses processes until filled."""
    for controller in CGROUPS.iterdir():
        if controller.is_symlink() or not (controller / "tasks").exists():
            continue
        group = controller / node.namespace
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (group / name).exists() and not (group / name).read_text().strip():
                (group / name).write_text((controller / name).read_text())


def pids_in_cgroups(node: settings.Node) -> list[int]:
    """Every process of the node's pods."""
    found: set[int] = set()
    for controller in ("pids", "memory", "cpu"):
        for path in (CGROUPS / controller / node.namespace).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in path.read_text().split())
    return sorted(found)


def shims(node: settings.Node) -> list[int]:
    """The node's containerd shims, known by the socket in their command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(node.socket).encode() in (entry / "cmdline").read_bytes().split(
                b"\0"
            ):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def pod_network(node: settings.Node) -> dict[str, object]:
    """Routed pairs rather than a bridge: traffic between two pods of one node then passes kube-proxy's rules too."""
    ranges = [[{"subnet": node.pod_network}]]
    ipam = {
        "type": "host-local",
        "ranges": ranges,
        "dataDir": str(node.state / "ipam"),
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugin = {"type": "ptp", "ipMasq": False, "ipam": ipam}
    return {
        "cniVersion": "0.4.0",
        "name": node.namespace,
        "plugins": [plugin, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def kube_proxy(node: settings.Node) -> None:
    """conntrack's limits belong to the machine and may not be changed from a namespace: 0 leaves them."""
    processes.start(
        f"{node.name}-kube-proxy",
        tools.binary("kube-proxy"),
        f"--kubeconfig={settings.PKI / 'kube-proxy.kubeconfig'}",
        f"--hostname-override={node.name}",
        f"--cluster-cidr={settings.POD_NETWORK}",
        "--proxy-mode=iptables",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--iptables-min-sync-period=0s",
        namespace=node.namespace,
    )


def kubelet(node: settings.Node) -> None:
    """Its configuration beside it, its labels given at registration."""
    configuration = node.state / "kubelet.json"
    configuration.write_text(json.dumps(kubelet_configuration(node)))
    labels = ",".join(f"{name}={value}" for name, value in node.labels.items())
    user = certificates.kubeconfig(f"kubelet-{node.name}", f"system:node:{node.name}", "system:nodes")
    processes.start(
        f"{node.name}-kubelet",
        tools.binary("kubelet"),
        f"--config={configuration}",
        f"--kubeconfig={user}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        f"--node-labels={labels}",
        f"--root-dir={node.state / 'kubelet'}",
        f"--cert-dir={node.state / 'pki'}",
        namespace=node.namespace,
    )


def kubelet_configuration(node: settings.Node) -> dict[str, object]:
    """Fast heartbeats; no eviction for a shared disk; cgroup version 1 with a root of its own."""
    (node.state / "pods").mkdir(parents=True, exist_ok=True)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(settings.PKI / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.namespace}",
        "clusterDNS": [settings.ADDRESS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "maxPods": 110,
        "nodeLeaseDurationSeconds": 16,
        "nodeStatusUpdateFrequency": "4s",
        "oomScoreAdj": 0,
        "podLogsDir": str(node.state / "pods"),
        "serializeImagePulls": False,
        "volumePluginDir": str(node.state / "plugins"),
    }


def ready(node: settings.Node, since: float) -> bool:
    """Whether the node said Ready after a moment; an older Ready is a dead node's."""
    with contextlib.suppress(shell.CommandError):
        status = json.loads(tools.kubectl("get", "node", node.name, "-o", "json"))["status"]
        for condition in status.get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                return (
                    calendar.timegm(time.strptime(condition["lastHeartbeatTime"], "%Y-%m-%dT%H:%M:%SZ"))
                    >= since - 1
                )
    return False


def give_accelerators(node: settings.Node) -> None:
    """Claim accelerators the machine has not, so that what requests them is scheduled.

    A kubelet that starts zeroes resources it does not know in its first updates, so ask until it has kept them.
    """
    count = str(node.accelerators)
    paths = [f"/status/{part}/{ACCELERATOR.replace('/', '~1')}" for part in ("capacity", "allocatable")]
    patch = json.dumps([{"op": "add", "path": path, "value": count} for path in paths])
    kept = 0
    while kept < 3:
        shown = tools.kubectl("get", "node", node.name, "-o", "json")
        if json.loads(shown)["status"]["allocatable"].get(ACCELERATOR) == count:
            kept += 1
        else:
            kept = 0
            tools.kubectl("patch", "node", node.name, "--subresource=status", "--type=json", "-p", patch)
        time.sleep(0.5)


def forget(node: settings.Node) -> None:
    """Remove what a node keeps on disk."""
    shutil.rmtree(node.state, ignore_errors=True)
