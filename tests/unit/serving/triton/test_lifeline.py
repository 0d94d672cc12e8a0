"""A server that lives no longer than its model."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

MODEL = """
import sys
from anneal_serving.triton.lifeline import Lifeline
line = Lifeline({server})
print("held", flush=True)
sys.stdin.read()
line.release()
"""


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def model(server: int) -> subprocess.Popen[bytes]:
    code = MODEL.format(server=server)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_server_whose_model_is_killed_is_killed(server: subprocess.Popen[bytes]) -> None:
    with model(server.pid) as process:
        process.kill()
    assert server.wait(20) == -signal.SIGKILL


def test_a_server_whose_model_ends_in_order_lives_on(server: subprocess.Popen[bytes]) -> None:
    with model(server.pid) as process:
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert server.poll() is None
