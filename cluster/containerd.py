"""containerd: one for each node, and one that fills the seed from which nodes are cloned."""

import pathlib
from collections.abc import Sequence

from cluster import processes, settings, shell

CONFIGURATION = """
version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true  # no CAP_SYS_RESOURCE in many CI machines: without it every pod fails to start
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".containerd]
  discard_unpacked_layers = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{hosts}"
"""
# Plain HTTP for the local registry only.
HOSTS = """
server = "http://{registry}"
[host."http://{registry}"]
  capabilities = ["pull", "resolve"]
"""


def start(
    name: str, root: pathlib.Path, run: pathlib.Path, cni: pathlib.Path, namespace: str | None = None
) -> None:
    """Start a containerd and wait for its socket."""
    if processes.alive(name):
        return
    for folder in (root, run, cni):
        folder.mkdir(parents=True, exist_ok=True)
    hosts = settings.STATE / "registries"
    (hosts / settings.REGISTRY).mkdir(parents=True, exist_ok=True)
    (hosts / settings.REGISTRY / "hosts.toml").write_text(HOSTS.format(registry=settings.REGISTRY))
    configuration = run / "containerd.toml"
    socket = run / "containerd.sock"
    values = {"root": root, "state": run / "containerd", "socket": socket, "cni": cni, "hosts": hosts}
    configuration.write_text(CONFIGURATION.format(pause=settings.PAUSE, **values))
    processes.start(name, "containerd", "--config", configuration, namespace=namespace)
    shell.wait(
        name, lambda: processes.require(name) and shell.succeeds("ctr", "--address", socket, "version")
    )


def images(socket: pathlib.Path) -> set[str]:
    """The references a containerd has, without those by digest."""
    listed = shell.run(
        "ctr", "--address", socket, "--namespace", "k8s.io", "images", "list", "--quiet"
    ).split()
    return {name for name in listed if "@" not in name and not name.startswith("sha256:")}


def pull(socket: pathlib.Path, references: Sequence[str]) -> list[str]:
    """Pull what is missing, labelled so that the kubelet's side knows it; returns what was pulled."""
    missing = [reference for reference in references if reference not in images(socket)]
    for reference in missing:
        label = ("--label", "io.cri-containerd.image=managed")
        command = (
            "ctr",
            "--address",
            socket,
            "--namespace",
            "k8s.io",
            "images",
            "pull",
            "--plain-http",
            *label,
        )
        shell.run(*command, reference)
    return missing


def prune(socket: pathlib.Path, keep: Sequence[str]) -> None:
    """Forget every other image, so that the seed does not grow with each change."""
    for name in images(socket) - set(keep):
        shell.run("ctr", "--address", socket, "--namespace", "k8s.io", "images", "remove", "--sync", name)
