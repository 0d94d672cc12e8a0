"""python3 -m cluster: start, stop and break the local cluster."""

import argparse
import contextlib
import fcntl
import os
from collections.abc import Iterator

from cluster import (
    cleanup,
    control_plane,
    dns,
    network,
    nodes,
    preload,
    processes,
    registry,
    settings,
    shell,
    storage,
    tools,
)


def parser() -> argparse.ArgumentParser:
    """One verb, sometimes a node."""
    made = argparse.ArgumentParser(prog="python3 -m cluster", description=__doc__)
    verbs = made.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="start the cluster, or what is missing of it")
    up.add_argument("--training-nodes", type=int, help="how many (default: as many as there are, or 3)")
    verbs.add_parser("down", help="end it and leave no trace; caches stay")
    verbs.add_parser("clean", help="down, and remove the pushed images and the nodes' seed")
    verbs.add_parser("status", help="daemons and nodes")
    verbs.add_parser("tools", help="build the Go binaries and link them in the cache's bin folder")
    verbs.add_parser("registry", help="start only the image registry")
    verbs.add_parser("load-images", help="pull current images to the running nodes")
    verbs.add_parser("restart-control-plane", help="kill etcd and the API server, and start them again")
    verbs.add_parser("kubeconfig", help="print the path of the kubeconfig")
    for verb, text in NODE_VERBS.items():
        verbs.add_parser(verb, help=text).add_argument("node", type=settings.node)
    return made


NODE_VERBS = {
    "node-stop": "cut a node's power",
    "node-start": "power a node on",
    "partition": "pull a node's network cable",
    "heal": "plug it in again",
}


def up(training_nodes: int | None) -> None:
    """Reuse what is healthy, clear what a killed run left, start what is missing."""
    tools.ensure()
    if not (healthy() and control_plane.ready()):
        with shell.step("clearing what an earlier run left"):
            cleanup.everything()
    count = (
        training_nodes
        or sum(node.pool == "training" for node in nodes.known())
        or settings.DEFAULT_TRAINING_NODES
    )
    with shell.step("registry and control plane"):
        registry.start()
        control_plane.start()
        dns.start()
    base = preload.essentials()
    storage.start(base)
    missing = [node for node in settings.nodes(count) if not processes.alive(f"{node.name}-kubelet")]
    if any(not node.containerd.exists() for node in missing):
        preload.seed()
    if missing:
        with shell.step(f"nodes {', '.join(node.name for node in missing)}"):
            shell.each(nodes.start, missing)
    for node in nodes.running():
        network.heal(node)
        if node not in settings.nodes(count):
            nodes.remove(node)
    shell.say(f"up: export KUBECONFIG={settings.KUBECONFIG}")


def healthy() -> bool:
    """Whether the daemons that make a control plane all run."""
    daemons = ("registry", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")
    return all(processes.alive(name) for name in daemons)


def status() -> None:
    """Every daemon, then what the API server says of the nodes."""
    for name in processes.names():
        print(f"{name:32} {'runs as ' + str(processes.pid_of(name)) if processes.alive(name) else 'ended'}")
    if control_plane.ready():
        print(tools.kubectl("get", "nodes", "-L", "anneal.dev/pool"), end="")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One at a time: two `up` at once would start everything twice."""
    with open("/run/lock/anneal-cluster", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Do what the command line says."""
    options = parser().parse_args()
    if options.verb == "kubeconfig":
        return print(settings.KUBECONFIG)
    if options.verb == "status":
        return status()
    if os.geteuid():
        raise SystemExit("network namespaces and mounts want root")
    with alone():
        try:
            act(options)
        except shell.CommandError as error:
            raise SystemExit(f"error: {error}") from None


def act(options: argparse.Namespace) -> None:
    """The verbs that change something."""
    if options.verb == "up":
        up(options.training_nodes)
    elif options.verb in ("down", "clean"):
        cleanup.everything()
        if options.verb == "clean":
            cleanup.caches()
    elif options.verb == "tools":
        tools.ensure()
    elif options.verb == "registry":
        registry.start()
    elif options.verb == "restart-control-plane":
        control_plane.restart()
    elif options.verb == "load-images":
        preload.load(nodes.running())
    else:
        verbs = {
            "node-stop": nodes.stop,
            "node-start": nodes.start,
            "partition": network.partition,
            "heal": network.heal,
        }
        verbs[options.verb](options.node)


if __name__ == "__main__":
    main()
