"""Names, addresses and folders of the cluster, and the nodes it has."""

import os
import pathlib
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(
    os.environ.get("ANNEAL_CACHE")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "anneal"
)
STATE = pathlib.Path("/var/lib/anneal-cluster")
RUN = pathlib.Path("/run/anneal-cluster")
LOGS = STATE / "logs"
PKI = STATE / "pki"
VOLUMES = STATE / "volumes"
KUBECONFIG = CACHE / "kubeconfig"
# A containerd root with every image unpacked and no container in it: new nodes are cloned from it with hard links.
SEED = CACHE / "containerd-seed"

CONTEXT = "anneal-local"
BRIDGE = "anneal0"
ADDRESS = "10.77.0.1"
NODE_NETWORK = "10.77.0.0/24"
POD_NETWORK = "10.88.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
REGISTRY = f"{ADDRESS}:5000"
PAUSE = f"{REGISTRY}/anneal/pause:1"
DEFAULT_TRAINING_NODES = 3


@dataclass(frozen=True)
class Place:
    """Where a control plane keeps its files and listens."""

    state: pathlib.Path
    address: str
    api_port: int
    etcd_port: int
    manager_port: int

    @property
    def pki(self) -> pathlib.Path:
        return self.state / "pki"

    @property
    def logs(self) -> pathlib.Path:
        return self.state / "logs"

    @property
    def api_server(self) -> str:
        return f"https://{self.address}:{self.api_port}"

    @property
    def etcd(self) -> str:
        return f"http://127.0.0.1:{self.etcd_port}"


LOCAL = Place(STATE, ADDRESS, 6443, 23790, 10257)


@dataclass(frozen=True)
class Node:
    """One node: a number that gives its addresses, and the pool it plays."""

    name: str
    number: int
    pool: str
    product: str
    accelerators: int

    @property
    def address(self) -> str:
        return f"10.77.0.{10 + self.number}"

    @property
    def pod_network(self) -> str:
        return f"10.88.{self.number}.0/24"

    @property
    def namespace(self) -> str:
        return f"anneal-{self.name}"

    @property
    def link(self) -> str:
        """The root namespace's end of the node's cable."""
        return f"ann-{self.name}"

    @property
    def state(self) -> pathlib.Path:
        return STATE / "nodes" / self.name

    @property
    def run(self) -> pathlib.Path:
        return RUN / "nodes" / self.name

    @property
    def containerd(self) -> pathlib.Path:
        return self.state / "containerd"

    @property
    def socket(self) -> pathlib.Path:
        return self.run / "containerd.sock"

    @property
    def labels(self) -> dict[str, str]:
        return {"anneal.dev/pool": self.pool, "nvidia.com/gpu.product": self.product}


def serving() -> list[Node]:
    """The serving pool: one node that claims four A10."""
    return [Node("serve-0", 1, "serving", "NVIDIA-A10", 4)]


def training(count: int) -> list[Node]:
    """The training pool: nodes that claim eight A100 each."""
    return [Node(f"train-{n}", n + 2, "training", "NVIDIA-A100-SXM4-80GB", 8) for n in range(count)]


def nodes(training_nodes: int = DEFAULT_TRAINING_NODES) -> list[Node]:
    """Every node, in the order in which they start."""
    return training(training_nodes) + serving()


def node(name: str) -> Node:
    """The node of that name; the largest supported cluster has nine training nodes."""
    for candidate in nodes(9):
        if candidate.name == name:
            return candidate
    raise SystemExit(f"no node is called {name!r}")
