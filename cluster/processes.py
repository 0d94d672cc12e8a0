"""The cluster's daemons: started detached, remembered by process id and start time, ended by process id.

The start time is there because a process id file may outlive a reboot, and the id may then be another's.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

from cluster import settings, shell

PIDS = settings.RUN / "pids"
# A daemon inherits nothing of the caller's environment but this.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"}


def start(name: str, *command: object, namespace: str | None = None) -> None:
    """Start a daemon unless it runs; in a network namespace when one is given.

    `nsenter`, never `ip netns exec`: the latter remounts /sys and hides the cgroup mounts.
    """
    if alive(name):
        return
    words = [str(word) for word in command]
    if namespace:
        words = ["nsenter", f"--net=/run/netns/{namespace}", *words]
    PIDS.mkdir(parents=True, exist_ok=True)
    settings.LOGS.mkdir(parents=True, exist_ok=True)
    with (settings.LOGS / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            words,
            cwd="/",
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process.returncode = 0  # not ours to wait for: it outlives this program
    (PIDS / name).write_text(f"{process.pid} {start_time(process.pid)}")


def start_time(pid: int) -> str:
    """Clock ticks since boot at which a process started; empty when there is none, or only its zombie.

    A process that was killed looks like a zombie as soon as its first thread has ended, but holds its sockets until
    the last one has. Fields of proc_pid_stat(5): state, number of threads, start time.
    """
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, threads, started = fields[0], int(fields[17]), fields[19]
    return "" if state in "ZX" and threads <= 1 else started


def pid_of(name: str) -> int | None:
    """The process id of a daemon that runs."""
    try:
        pid, _, started = (PIDS / name).read_text().partition(" ")
    except OSError:
        return None
    return int(pid) if started and start_time(int(pid)) == started else None


def alive(name: str) -> bool:
    """Whether the daemon runs."""
    return pid_of(name) is not None


def names() -> list[str]:
    """Every daemon that was started, in no order."""
    return sorted(path.name for path in PIDS.iterdir()) if PIDS.is_dir() else []


def stop(*which: str, grace: float = 5) -> None:
    """End daemons by process id: ask, wait, then insist."""
    pids = [pid for name in which if (pid := pid_of(name))]
    kill(pids, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(start_time(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill([pid for pid in pids if start_time(pid)], signal.SIGKILL)
    for name in which:
        (PIDS / name).unlink(missing_ok=True)


def kill(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def log_tail(name: str, lines: int = 5) -> str:
    """What a daemon said last, for error messages."""
    path = settings.LOGS / f"{name}.log"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def require(name: str) -> bool:
    """True while the daemon runs; its last words as the error when it does not."""
    if not alive(name):
        raise shell.CommandError(f"{name} ended:\n{log_tail(name)}")
    return True
