"""Daemons of the local cluster: which of them are gone."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from cluster import processes

HEADLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def headless() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose first thread has ended and whose second lives on."""
    with subprocess.Popen([sys.executable, "-c", HEADLESS]) as process:
        try:
            while state(process.pid) != "Z":
                assert process.poll() is None
            yield process
        finally:
            process.kill()


def state(pid: int) -> str:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_is_there_until_its_last_thread_has_ended(headless: subprocess.Popen[bytes]) -> None:
    assert processes.start_time(headless.pid)


def test_a_zombie_is_gone(headless: subprocess.Popen[bytes]) -> None:
    headless.kill()
    while len(list(pathlib.Path(f"/proc/{headless.pid}/task").iterdir())) > 1:
        pass
    assert processes.start_time(headless.pid) == ""
