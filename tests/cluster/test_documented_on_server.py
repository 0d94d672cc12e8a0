"""The commands of kubectl and helm in the pages, run as they stand by bash against an API server of the test's own.

NAME is the quick start's. What deletes is a dry run, so that the order of the tests does not matter.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import tools
from documented import ROOT, Command, proved
from tests.cluster.administrator import administrator
from tests.cluster.own_server import SYSTEM, OwnServer

from anneal_api.version import VERSION

pytestmark = pytest.mark.cluster
COMMANDS = proved("server")
INSTALL = [command for command in COMMANDS if command.line.startswith("helm install ")]
VERBS = [command for command in COMMANDS if re.fullmatch(r"\w+ \w+", command.line)]
QUICK_START = "manifests/samples/quickstart.yaml"
READERS_OWN = {"NAME": "quickstart", "RUN": "0a1b2c3d", "my.yaml": QUICK_START}
DRY = {r"kubectl (.* )?delete ": "--dry-run=server", r"helm uninstall ": "--dry-run"}
ATTEMPTED = [{"number": 1, "records": "pvc://store/records"}]
ADAPTER = {"uri": "pvc://store/adapter", "digest": f"sha256:{'0' * 64}"}
STATUS = json.dumps({"status": {"attempts": ATTEMPTED, "artifacts": {"adapter": ADAPTER}}})
PREPULL = "accelerator: a100-80g, images: [trainers], weights: [s3://models/base], weightsSize: 100Gi"
WORLD = (
    f"helm upgrade anneal charts/anneal --namespace anneal-system --reuse-values --values - <<< 'prepull: [{{{PREPULL}}}]'",
    "kubectl create namespace anneal-quickstart",
    f"kubectl apply -f {QUICK_START}",
    f"kubectl apply -n anneal-quickstart -f {QUICK_START}",
    "kubectl create serviceaccount default",
    "kubectl run any --image=any",
    f"kubectl patch ftj NAME --subresource status --type merge -p '{STATUS}'",
)
"""What a reader has when reading on: weights on nodes, the quick start in both namespaces, an attempt and an adapter of it, and a pod."""
LEASE = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    """Takes the place of the local cluster's: these tests need none."""


class Shell:
    """bash with the pinned kubectl and helm, whose cluster is the test's own."""

    def __init__(self, environment: dict[str, str]) -> None:
        folders = ":".join(str(tools.binary(name).parent) for name in ("kubectl", "helm"))
        self._environment = {**environment, "PATH": f"{folders}:{environment['PATH']}"}

    def __call__(self, line: str) -> str:
        for word, ours in READERS_OWN.items():
            line = re.sub(rf"\b{re.escape(word)}\b", ours, line)
        for looks, option in DRY.items():
            line = f"{line} {option}" if re.match(looks, line) else line
        done = subprocess.run(
            ["bash", "-euc", line],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A reader's cluster: Anneal installed as the pages say, the quick start applied."""
    folder = tmp_path_factory.mktemp("documented")
    server = OwnServer(folder)
    try:
        server.start()
        run = Shell(administrator(server, folder))
        for command in INSTALL:
            run(command.line)
        for line in WORLD:
            run(line)
        lease = {**LEASE, "metadata": {"name": "anneal-operator"}}
        server.apply(f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases", lease)
        yield run
    finally:
        server.stop()


def test_the_pages_say_how_to_install() -> None:
    assert len(INSTALL) == 1


@pytest.mark.parametrize("command", VERBS, ids=lambda command: command.line)
def test_a_verb_is_one(shell: Shell, command: Command) -> None:
    told = shell(f"{command.line} --help")
    assert re.search(rf"^ +{command.line} ", told, re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    [command for command in COMMANDS if command not in (*INSTALL, *VERBS)],
    ids=lambda command: command.line,
)
def test_a_command_does_what_it_is_for(shell: Shell, command: Command) -> None:
    assert shell(command.line).strip()


def test_kubectl_finds_the_command_line_by_its_names(shell: Shell, tmp_path: Path) -> None:
    """As pip would install it; kubectl itself asks for completions."""
    for name, target in tomllib.loads((ROOT / "cli" / "pyproject.toml").read_text())["project"][
        "scripts"
    ].items():
        module, _, function = target.partition(":")
        (tmp_path / name).write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        (tmp_path / name).chmod(0o755)
    there = f'PATH="{tmp_path}:$PATH" kubectl'
    assert VERSION in shell(f"{there} anneal --version")
    assert "quickstart" in shell(f"{there} anneal -n anneal-quickstart status")
    assert "lineage" in shell(f"{there} __complete anneal li")
