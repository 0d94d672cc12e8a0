"""Programs that mean harm: none passes, none leaves a trace, none takes longer than its time."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.evaluation.conftest import Machine

from anneal_evaluation.sandbox import runner
from anneal_evaluation.sandbox.confine import Limits
from anneal_evaluation.sandbox.runner import Sandbox
from anneal_runtime.errors import Refused

LIMITS = Limits(
    wall_seconds=1.0, cpu_seconds=1, memory_bytes=256 << 20, file_bytes=1 << 20, output_bytes=1 << 20
)
BOX = Sandbox(LIMITS)
TESTS = "assert f(2) == 4\nassert f([1]) == [1, 1]"
LIAR = "class Liar(int):\n    __eq__ = __ge__ = lambda s, o: True\n    __hash__ = int.__hash__\n"

CHEATS = {
    "an object equal to everything": f"{LIAR}def f(x): return Liar(7)",
    "an object of no plain type": "class Any:\n    __eq__ = lambda s, o: True\ndef f(x): return Any()",
    "a list that is equal to everything": "class L(list):\n    __eq__ = lambda s, o: True\ndef f(x): return L()",
    "a container of liars": f"{LIAR}def f(x): return [Liar(7)]",
    "walking frames": "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        for v in list(frame.f_locals.values()):\n            if hasattr(v, 'append'): v.append('passed')\n"
    "        frame = frame.f_back\n    return 0",
    "built-ins of its own": "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\n"
    "def f(x): return 0\ndef isinstance(*a): return True",
    "leaving with success": "import os\ndef f(x): os._exit(0)",
    "leaving while it is defined": "raise SystemExit(0)",
    "a report of its own": "import os\ndef f(x):\n    for fd in range(64):\n        try: os.write(fd, "
    'b\'{"verdict": "passed", "detail": ""}\\n\')\n        except OSError: pass\n    return 0',
    "an exception that ends": "def f(x): raise GeneratorExit",
    "garbage on every descriptor": "import os\ndef f(x):\n    for fd in range(3, 64):\n        try: os.write(fd, "
    "b'\\x00\\xff' * 1000)\n        except OSError: pass\n    return 0",
    "closed outputs": "import os\nos.closerange(0, 64)\ndef f(x): return 2 * x",
    "reading its input": "import sys\nwanted = sys.stdin.read()\ndef f(x): return wanted",
    "nothing at all": "",
    "no Python": "def f(x: return",
    "no result that travels": "def f(x):\n    out = []\n    out.append(out)\n    return out",
    "a result of no end": "def f(x): return 'x' * (32 << 20)",
    "a number of no end": "def f(x): return 10 ** 200_000",
    "all memory": "def f(x): return len(b'x' * (1 << 32))",
    "recursion": "def f(x): return f(x)",
    "a broken interpreter": "import ctypes\ndef f(x): return ctypes.string_at(0)",
}


pytestmark = pytest.mark.usefixtures("machine")

SPOIL = """
import os as _os
def _spoil(victim, places, mark):
    yield lambda: open(victim, 'a').write('more')
    yield lambda: _os.truncate(victim, 0)
    yield lambda: _os.chmod(victim, 0o777)
    yield lambda: _os.utime(victim, (0, 0))
    yield lambda: _os.link(victim, victim + '-other')
    yield lambda: _os.rename(victim, victim + '-moved')
    yield lambda: _os.unlink(victim)
    for place in places:
        yield lambda: open(_os.path.join(place, mark), 'w').close()
        yield lambda: _os.mkdir(_os.path.join(place, mark))
        yield lambda: _os.symlink('/', _os.path.join(place, mark))
for _one in _spoil({victim!r}, {places!r}, {mark!r}):
    try: _one()
    except OSError: pass
"""


def spoiling(machine: Machine, program: str) -> str:
    """Return a program that first tries to change all that its user may."""
    return SPOIL.format(victim=str(machine.victim), places=machine.places, mark=machine.mark) + program


QUICK = 4
"""The first of them are the ones that other harnesses let pass, and run in every check."""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, id=name, marks=() if number < QUICK else pytest.mark.slow)
        for number, (name, program) in enumerate(CHEATS.items())
    ],
)
def test_no_cheat_passes(machine: Machine, program: str) -> None:
    found = BOX.judge(spoiling(machine, program), TESTS, ["f"])
    assert found.state in ("failed", "crashed"), found


def test_an_object_of_the_programs_own_is_not_true() -> None:
    found = BOX.judge("class Any: pass\ndef f(x): return Any()", "assert f(2)", ["f"])
    assert (found.state, "neither true nor false" in found.detail) == ("failed", True), found


def test_an_honest_program_passes() -> None:
    assert BOX.judge("def f(x): return 2 * x", TESTS, ["f"]).passed


ENDLESS = {
    "a loop": ("while True: pass", "timeout"),
    "sleep": ("import time\ntime.sleep(60)", "timeout"),
    "a fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "timeout"),
    "waiting for what nobody sends": ("import os\nos.read(os.pipe()[0], 1)", "timeout"),
    "deaf to signals": (
        ("import signal, time\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\ntime.sleep(60)"),
        "timeout",
    ),
    "unbounded output": ("while True: print('x' * 65536)", "limit"),
    "unbounded files": (
        "for n in range(10**6):\n    with open(f'{n}', 'w') as f: f.write('x' * 65536)",
        "limit",
    ),
    "unbounded folders": ("import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')", "limit"),
    "threads": (("import threading, time\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(60,)).start()\n"
                "    except (RuntimeError, MemoryError): pass"), "timeout"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("program", "state"), ENDLESS.values(), ids=ENDLESS.keys())
def test_no_program_outlives_its_time(machine: Machine, program: str, state: str) -> None:
    started = time.monotonic()
    found = BOX.judge(spoiling(machine, program), TESTS, ["f"])
    assert (found.state, time.monotonic() - started < 15) == (state, True), found


REACHES = {
    "processes": "import os\nos.fork()",
    "a fork bomb": "import os\nwhile True: os.fork()",
    "other programs": "import os\nos.execv('/bin/true', ['true'])",
    "a shell": "import subprocess\nsubprocess.run(['true'])",
    "the network": "import socket\nsocket.socket()",
    "another's end": "import os\nos.kill(os.getppid() or 1, 0)",
    "everybody's end": "import os\nos.kill(-1, 0)",
    "another's limits": "import resource\nresource.prlimit(2, resource.RLIMIT_CPU, (0, 0))",
    "the user's files": "open('/etc/passwd').read()",
    "other processes": "open('/proc/self/environ').read()",
    "files elsewhere": "open('/tmp/anneal-was-here', 'w')",
    "modes of files": "import os\nos.chmod('/etc/passwd', 0o600)",
    "memory that no limit counts": "import os\nos.memfd_create('x')",
    "namespaces": "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000): raise PermissionError",
    "another's memory": "import ctypes\nif ctypes.CDLL(None).ptrace(16, 1, 0, 0) < 0: raise PermissionError",
}


def test_nothing_outside_is_in_reach() -> None:
    program = f"""
REACHES = {REACHES!r}
def f(name):
    try:
        exec(REACHES[name])
    except PermissionError:
        return 'refused'
    return 'reached'
"""
    found = BOX.judge(
        program, "\n".join(f"assert f({name!r}) == 'refused', {name!r}" for name in REACHES), ["f"]
    )
    assert found.passed, found


STARTED = (
    "from anneal_evaluation.sandbox.confine import Limits\nfrom anneal_evaluation.sandbox.runner import Sandbox\n"
    "Sandbox(Limits(wall_seconds=60, cpu_seconds=60)).judge('while True: pass', 'f()', ['f'])"
)


@pytest.mark.slow
def test_nothing_outlives_whoever_asked() -> None:
    path = os.pathsep.join(map(str, sys.path))
    with subprocess.Popen([sys.executable, "-c", STARTED], env={**os.environ, "PYTHONPATH": path}) as asking:
        server = _children(asking.pid, 1)[0]
        warden = _children(server, 1)[0]
        left = [os.pidfd_open(process) for process in (server, warden, *_children(warden, 2))]
        asking.kill()
    for process in left:
        assert select.select([process], [], [], 10)[0]
        os.close(process)


def _children(process: int, count: int) -> list[int]:
    """Return the children of a process, once it has so many."""
    while len(found := Path(f"/proc/{process}/task/{process}/children").read_text().split()) < count:
        pass
    return list(map(int, found))


def test_a_sample_finds_nothing_of_the_one_before_it() -> None:
    leaves = (
        "import builtins, sys, json\nbuiltins.left = sys.left = json.left = 1\nopen('left', 'w').close()\n"
        "def f(): return 1"
    )
    finds = "import builtins, sys, json, os\ndef f(): return [hasattr(x, 'left') for x in (builtins, sys, json)] + os.listdir()"
    assert BOX.judge(leaves, "assert f() == 1", ["f"]).passed
    found = BOX.judge(finds, "assert f() == [False] * 3", ["f"])
    assert found.passed, found


def test_a_fork_server_that_was_ended_is_started_again() -> None:
    box, program, before = (
        Sandbox(LIMITS),
        ("def f(x): return 2 * x", TESTS, ["f"]),
        _children(os.getpid(), 0),
    )
    assert box.judge(*program).passed
    (server,) = set(_children(os.getpid(), 1)) - set(before)
    os.kill(server, signal.SIGKILL)
    assert box.judge(*program).passed


def test_limits_that_are_lower_already_stay() -> None:
    asked = (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (5, 5))\n"
        "from anneal_evaluation.sandbox.runner import Sandbox\n"
        "assert Sandbox().judge('def f(): return 1', 'assert f() == 1', ['f']).passed"
    )
    path = os.pathsep.join(map(str, sys.path))
    subprocess.run([sys.executable, "-c", asked], env={**os.environ, "PYTHONPATH": path}, check=True)


def test_a_level_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LEVELS", (*runner.LEVELS, "a machine of its own"))
    with pytest.raises(
        Refused, match="must run at isolation a machine of its own here, and the machine allows"
    ):
        Sandbox(LIMITS, required="a machine of its own").judge("f = 1", "", [])
