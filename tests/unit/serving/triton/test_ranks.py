"""Several ranks of one replica: the command, and that SIGTERM drains the first before the others go."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from anneal_serving.triton import ranks

SERVER = [
    "/opt/tritonserver/bin/tritonserver",
    "--http-port=8000",
    "--load-model=tensorrt_llm",
    "--load-model=ensemble",
]
MPIRUN = """#!{python}
# As Open MPI does it: all ranks at once, and when one ends badly the others are told to end.
import subprocess, sys
second = " ".join(sys.argv).split(" : -n 1 ")[1]
shell, flag, script, file, *server = sys.argv[5:sys.argv.index(":")]
one = subprocess.Popen([shell, flag, script, file, *server])
two = subprocess.Popen(second.split())
code = one.wait()
two.terminate()
two.wait()
sys.exit(code)
"""
SERVE = """#!/bin/sh
echo "$@" >> %(log)s
trap 'echo told $1 >> %(log)s; sleep 0.2; echo ended $1 >> %(log)s; exit 0' TERM
while :; do sleep 0.05; done
"""


def test_rank_0_serves_and_the_others_only_compute() -> None:
    words = " ".join(ranks.command(3, SERVER, Path("/run/leader.pid")))
    first, second, third = words.split(" : ")
    assert first.startswith("mpirun --bind-to none -n 1 sh -c ")
    assert "/run/leader.pid /opt/tritonserver/bin/tritonserver --http-port=8000" in first
    assert "--load-model=ensemble" in first
    for rank, part in ((1, second), (2, third)):
        assert part == (
            "-n 1 /opt/tritonserver/bin/tritonserver --http-port=8000 --load-model=tensorrt_llm "
            f"--disable-auto-complete-config --backend-config=python,shm-region-prefix-name=prefix{rank}_"
        )


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A stand-in of mpirun that runs two ranks, and one of tritonserver that drains."""
    for name, text in (
        ("mpirun", MPIRUN.format(python=sys.executable)),
        ("tritonserver", SERVE % {"log": tmp_path / "log"}),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_sigterm_drains_the_first_before_the_others_go(programs: Path) -> None:
    leader, log = programs / "leader.pid", programs / "log"
    code = (
        "import sys; from pathlib import Path; from anneal_serving.triton import ranks, supervisor;"
        f"words = ranks.command(2, ['{programs}/tritonserver', 'x'], Path('{leader}'));"
        f"sys.exit(supervisor.run(['{programs}/mpirun', *words[1:]], {{'PATH': '/usr/bin:/bin'}}, Path('{leader}')))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    pace = threading.Event()
    while not (log.exists() and len(log.read_text().splitlines()) == 2):
        assert process.poll() is None
        pace.wait(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    ends = [line for line in log.read_text().splitlines() if line.startswith(("told", "ended"))]
    assert ends == ["told x", "ended x"] * 2
