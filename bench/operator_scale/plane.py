"""A control plane of the benchmark's own: etcd, API server, controller manager, no node and no scheduler.

All of them are children that the kernel ends with this process, however it ends; their files lie in one folder of the
cache, which the next run clears.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from cluster import certificates, control_plane, settings

FOLDER = settings.CACHE / "bench" / "operator"
PLACE = settings.Place(FOLDER / "plane", "127.0.0.1", 16443, 24790, 20257)
AUDITED: list[control_plane.Rule] = [
    {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
    {"level": "Metadata"},
]
MANAGER = ("--kube-api-qps=500", "--kube-api-burst=1000")
"""The Job controller makes pods as fast as they are wanted; with its defaults it would set the pace of both sides."""
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2**20
Object = dict[str, Any]


@dataclass
class Daemon:
    """A child process and what it has used."""

    name: str
    process: subprocess.Popen[bytes]
    cpu: float = 0.0
    peak: float = 0.0
    """MiB of resident memory, at most so far."""

    def look(self) -> None:
        """Read CPU seconds and the highest resident memory; the last values stay when it has ended."""
        with contextlib.suppress(OSError, ValueError, StopIteration):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                self.cpu = (int(fields[11]) + int(fields[12])) / TICKS
                self.peak = _status(self.process.pid, "VmHWM") / MIB

    @property
    def resident(self) -> float:
        """MiB of resident memory now."""
        return _status(self.process.pid, "VmRSS") / MIB

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it and wait for that."""
        self.look()
        self.process.send_signal(number)
        self.process.wait()


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@dataclass
class Plane:
    """A running control plane, a client of it, and the processes that belong to it."""

    session: aiohttp.ClientSession
    daemons: dict[str, Daemon] = field(default_factory=dict)

    def start(self, name: str, *command: object, env: dict[str, str] | None = None) -> Daemon:
        """Start a process that ends with this one."""
        log = (PLACE.logs / f"{name}.log").open("ab")
        words = ["setpriv", "--pdeathsig", "KILL", *map(str, command)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(PLACE.state), **(env or {})}
        process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
        )
        log.close()
        self.daemons[name] = Daemon(name, process)
        return self.daemons[name]

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End one of the processes."""
        self.daemons.pop(name).end(number)

    async def ask(
        self, method: str, path: str, body: Object | None = None, content: str = "application/json"
    ) -> Object:
        """Send a request as the cluster's administrator; ends the benchmark when it is refused."""
        data = None if body is None else json.dumps(body)
        url = PLACE.api_server + path
        async with self.session.request(method, url, data=data, headers={"Content-Type": content}) as answer:
            said = await answer.text()
            if answer.status >= 300:
                raise SystemExit(f"{method} {path}: {answer.status} {said[:500]}")
            return dict(json.loads(said))

    async def until(self, what: str, ready: Callable[[], Any], seconds: float, pause: float = 0.25) -> float:
        """Wait until something holds; returns the seconds it took."""
        began = time.monotonic()
        while not ready():
            await asyncio.sleep(pause)
            self.check()
            if time.monotonic() - began > seconds:
                raise SystemExit(f"{what}: not within {seconds:.0f} s; logs: {PLACE.logs}")
        return time.monotonic() - began

    def check(self) -> None:
        """Read what every process has used, and end the benchmark when one has ended by itself."""
        for daemon in self.daemons.values():
            daemon.look()
            if daemon.process.poll() is not None:
                tail = (PLACE.logs / f"{daemon.name}.log").read_text(errors="replace")[-2000:]
                raise SystemExit(f"{daemon.name} ended with {daemon.process.returncode}:\n{tail}")


def clear() -> None:
    """Remove what an earlier run has left."""
    shutil.rmtree(FOLDER, ignore_errors=True)


@contextlib.asynccontextmanager
async def plane(data: Path | None = None, manager: bool = True) -> AsyncIterator[Plane]:
    """Start a control plane on an empty store, or on a copy of `data`; everything ends with the block."""
    for name in ("etcd", "logs"):
        shutil.rmtree(PLACE.state / name, ignore_errors=True)
    PLACE.logs.mkdir(parents=True)
    if data:
        shutil.copytree(data, PLACE.state / "etcd")
    certificates.authority(PLACE)
    certificates.server(PLACE)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=_admin(), limit=0)) as session:
        made = Plane(session)
        try:
            made.start("etcd", *control_plane.etcd_of(PLACE))
            # One file, so that it can be followed.
            audit = ("--audit-log-maxsize=2000",)
            made.start("kube-apiserver", *control_plane.api_server_of(PLACE, AUDITED), *audit)
            await made.until("API server", lambda: control_plane.ready(PLACE), 60)
            if manager:
                made.start("kube-controller-manager", *control_plane.controller_manager_of(PLACE), *MANAGER)
            yield made
        finally:
            for daemon in reversed(made.daemons.values()):
                daemon.end()


def user(name: str) -> Path:
    """Return the kubeconfig of a user of that name, who may do everything."""
    return certificates.kubeconfig(name, name, "system:masters", place=PLACE)


def keep(name: str) -> Path:
    """Copy what etcd holds, when it has ended, for later rounds."""
    target = FOLDER / name
    shutil.copytree(PLACE.state / "etcd", target)
    return target


def _admin() -> ssl.SSLContext:
    user("driver")
    context = ssl.create_default_context(cafile=str(PLACE.pki / "ca.crt"))
    context.load_cert_chain(PLACE.pki / "driver.crt", PLACE.pki / "driver.key")
    return context


async def each(action: Callable[[Object], Any], objects: Sequence[Object], at_once: int = 32) -> None:
    """Do something to many objects, so many at once."""
    todo = iter(objects)

    async def work() -> None:
        for obj in todo:
            await action(obj)

    await asyncio.gather(*(work() for _ in range(at_once)))


async def served(place: Plane, *paths: str) -> None:
    """Wait until the API server serves what CRDs define."""
    for path in paths:
        while True:
            async with place.session.get(PLACE.api_server + path) as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.1)


def answers(port: int, path: str) -> bool:
    """Return whether a process of this machine answers 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
