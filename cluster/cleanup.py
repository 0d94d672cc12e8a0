"""Leave the machine as it was: also after this program, or the whole cluster, was killed half-way."""

import contextlib
import pathlib
import shutil
import signal

from cluster import network, nodes, processes, settings, shell

# What containerd, runc and the kubelet write outside the folders they are given.
SHIM_SOCKETS = pathlib.Path("/run/containerd/s")
CONTAINER_LOGS = pathlib.Path("/var/log/containers")
CNI_RESULTS = pathlib.Path("/var/lib/cni/results")
EMPTY_AFTERWARDS = (
    "/run/containerd/s",
    "/run/containerd/runc/k8s.io",
    "/run/containerd/runc",
    "/run/containerd",
    "/var/log/containers",
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
)


def everything() -> None:
    """End, unmount, unplug, delete. Caches stay."""
    shell.each(nodes.stop, nodes.known())
    processes.stop(*processes.names(), grace=0)
    processes.kill(strays(), signal.SIGKILL)
    sockets = shim_sockets()
    unmount()
    network.remove()
    groups()
    strewn(sockets)
    shutil.rmtree(settings.STATE, ignore_errors=True)
    shutil.rmtree(settings.RUN, ignore_errors=True)
    settings.KUBECONFIG.unlink(missing_ok=True)


def strays() -> list[int]:
    """Daemons whose process id file was lost: known by our folders in their command line."""
    marks = (f"{settings.STATE}/".encode(), f"{settings.RUN}/".encode())
    daemons = (b"etcd", b"kube", b"containerd", b"coredns", b"registry", b"local-path-provisioner")
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else [b""]
            name = words[0].rpartition(b"/")[2]
            if name.startswith(daemons) and any(mark in word for word in words for mark in marks):
                found.append(int(entry.name))
    return found


def unmount() -> None:
    """Everything mounted under our folders, innermost first."""
    for _ in range(3):
        lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
        ours = [point for point in points if point.startswith((f"{settings.STATE}/", f"{settings.RUN}/"))]
        if not ours:
            return
        for point in reversed(ours):
            shell.succeeds("umount", "--lazy", point)


def groups() -> None:
    """The nodes' cgroups, leaves first: the kernel wants them empty."""
    for controller in nodes.CGROUPS.iterdir():
        for group in controller.glob("anneal-*"):
            for folder in sorted(
                [group, *(p for p in group.rglob("*") if p.is_dir())], key=lambda p: -len(p.parts)
            ):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def shim_sockets() -> list[pathlib.Path]:
    """Sockets that our shims opened: each task's folder names its own."""
    found = []
    for path in settings.RUN.glob("**/io.containerd.runtime.v2.task/*/*/address"):
        with contextlib.suppress(OSError):
            found.append(pathlib.Path(path.read_text().strip().removeprefix("unix://")))
    return found


def strewn(sockets: list[pathlib.Path]) -> None:
    """Files outside our folders, and the folders that were made for them."""
    listening = pathlib.Path("/proc/net/unix").read_text()
    stale = (
        [path for path in SHIM_SOCKETS.glob("*") if str(path) not in listening]
        if SHIM_SOCKETS.is_dir()
        else []
    )
    for path in [*sockets, *stale]:
        path.unlink(missing_ok=True)
    for path in CONTAINER_LOGS.glob("*.log") if CONTAINER_LOGS.is_dir() else []:
        if path.is_symlink() and str(path.readlink()).startswith(str(settings.STATE)):
            path.unlink()
    for path in CNI_RESULTS.glob("anneal-*") if CNI_RESULTS.is_dir() else []:
        path.unlink()
    plugins = pathlib.Path("/var/lib/kubelet/device-plugins")
    for path in plugins.glob("*") if plugins.is_dir() else []:
        path.unlink()
    for folder in EMPTY_AFTERWARDS:
        with contextlib.suppress(OSError):
            pathlib.Path(folder).rmdir()


def caches() -> None:
    """Also what the cluster keeps between runs: pushed images and the seed."""
    shutil.rmtree(settings.SEED, ignore_errors=True)
    shutil.rmtree(settings.CACHE / "registry", ignore_errors=True)
