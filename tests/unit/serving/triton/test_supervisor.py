"""One server under its parent: signals go down, exit codes come up."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

SERVER = """
trap 'sleep 0.1; echo drained >> {log}; exit 1' TERM
echo serves >> {log}
while :; do sleep 0.05; done
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def supervised(script: str, log: Path) -> subprocess.Popen[bytes]:
    words = ["/bin/sh", "-c", script.format(log=log)]
    code = (
        "import sys; from pathlib import Path; from anneal_serving.triton import supervisor;"
        f"sys.exit(supervisor.run({words!r}, {{'PATH': '/usr/bin:/bin'}}, Path('{log}.pid')))"
    )
    return subprocess.Popen([sys.executable, "-c", code])


def test_sigterm_lets_the_server_drain_and_is_a_good_end(log: Path) -> None:
    parent, pace = supervised(SERVER, log), threading.Event()
    while not log.exists():
        assert parent.poll() is None
        pace.wait(0.02)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(20) == 0
    assert log.read_text().split() == ["serves", "drained"]


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -KILL $$", 128 + signal.SIGKILL)])
def test_the_exit_code_is_the_servers(script: str, code: int, log: Path) -> None:
    assert supervised(script, log).wait(20) == code
