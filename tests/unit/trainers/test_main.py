"""The first instants of a pod: SIGTERM is heard before anything heavy is imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anneal_api.outcome import EXIT_CONFIG
from anneal_api.runs import ENV_RUN
from anneal_trainers.__main__ import COMMANDS, STAGES, main

SLOW_IMPORT = "import signal\nprint('importing', flush=True)\nsignal.pause()\n"


def started(folder: Path, stage: str) -> subprocess.Popen[str]:
    """Start a stage whose first import outside of the standard library never ends, and wait until it is there."""
    for name in ("pydantic", "numpy", "torch"):
        (folder / f"{name}.py").write_text(SLOW_IMPORT)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "anneal_trainers", stage]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    return process


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"rank"}))
def test_sigterm_is_heard_while_a_stage_still_imports(tmp_path: Path, stage: str) -> None:
    with started(tmp_path, stage) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == os.EX_TEMPFAIL


def test_a_rank_leaves_sigterm_to_the_kernel_until_it_trains(tmp_path: Path) -> None:
    with started(tmp_path, "rank") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM


@pytest.mark.parametrize("command", [["spikes"], ["replay", "--step", "1"]])
def test_what_is_wrong_with_a_commands_input_is_told_and_refused(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"nothing": 1}')
    monkeypatch.setenv(ENV_RUN, str(tmp_path / "run.json"))
    assert main(command) == EXIT_CONFIG
    assert "InvalidRun: run.json: namespace: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["prepare", "more"]])
def test_what_is_no_stage_is_answered_with_those_there_are(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == os.EX_USAGE
    told = capsys.readouterr().err
    assert all(name in told for name in [*STAGES, *COMMANDS])
