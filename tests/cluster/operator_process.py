"""The operator as a process on this machine, behind a proxy of its own, restarted as a kubelet would."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.own_server import OPERATOR, SYSTEM, Json, OwnServer, free_port

LEASE = f"{SYSTEM}/anneal-operator"
CONFIG: Json = {
    "images": {"trainers": "anneal/trainers:1", "serving": "anneal/serving:1"},
    "accelerators": [{"name": "a100-80g", "resourceName": "nvidia.com/gpu", "memoryGib": 80}],
}


@contextmanager
def own_operator(server: OwnServer, folder: Path) -> Iterator["OperatorProcess"]:
    """An operator of `server` behind a proxy of its own; its story is told when a test fails."""
    running = OperatorProcess(FaultProxy(server), folder)
    try:
        yield running
    finally:
        running.stop()
        running.proxy.close()
        print(running.story())


class OperatorProcess:
    """One replica; `folder` keeps its settings and its log."""

    def __init__(self, proxy: FaultProxy, folder: Path) -> None:
        self.proxy = proxy
        self.log = folder / "operator.log"
        self._health = free_port()
        (folder / "config.yaml").write_text(json.dumps(CONFIG))
        (folder / "kubeconfig").write_text(json.dumps(_kubeconfig(proxy.url)))
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(folder / "kubeconfig"),
            "ANNEAL_CONFIG": str(folder / "config.yaml"),
            "ANNEAL_LEASE": LEASE,
            "ANNEAL_HEALTH_PORT": str(self._health),
            "ANNEAL_METRICS_PORT": str(free_port()),
        }
        self.start()

    def start(self) -> None:
        """Start, or start again."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "anneal_operator"]
            self.process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    @property
    def exit_code(self) -> int | None:
        """How the process ended; None while it runs."""
        return self.process.poll()

    def keep(self) -> list[int]:
        """Start it again if it has ended or its probe fails, as a kubelet does; return the code it ended with."""
        if self.unhealthy():
            self.stop()
        code = self.exit_code
        if code is None:
            return []
        self.start()
        return [code]

    def unhealthy(self) -> str:
        """Return what the liveness probe is told; empty when all is well, and before it is there to ask."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/healthz", timeout=5):
                return ""
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it whatever it does."""
        with suppress(ProcessLookupError):
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
        self.process.wait()

    def story(self) -> str:
        """Return the end of its log, for a failed test's report."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])


def _kubeconfig(url: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "own", "cluster": {"server": url}}],
        "users": [{"name": "operator", "user": {"token": OPERATOR}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "operator"}}],
        "current-context": "own",
    }
