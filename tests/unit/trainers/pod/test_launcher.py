"""Process 1 with real rank processes: exit codes, prompt ends, hangs, SIGTERM, progress."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.outcome import EXIT_CODES, Outcome, TrainReached
from anneal_api.runs import FineTuneRun
from anneal_trainers.pod import attempt_records, out_of_memory, ranks, verdicts
from anneal_trainers.pod import launcher as launcher_module
from anneal_trainers.pod.launcher import Launcher
from anneal_trainers.pod.progress import serve
from anneal_trainers.pod.ranks import Limits, Rank

HEAD = "import os, sys, time, json, signal\nsay = lambda m: os.write(int(os.environ['ANNEAL_CHANNEL']), json.dumps(m).encode() + b'\\n')\n"
WAIT = "time.sleep(60)"
STOPPED = "say({'phase': 'compute'}); time.sleep(60)"
BEAT = "say({'phase': 'compute', 'batch': '1 x 99 positions of step 7'})"
SPEC = FineTuneJobSpec.model_validate(
    {
        "baseModel": {"uri": "file:///unused"},
        "tasks": [{"name": "a", "data": {"uri": "file:///unused"}}],
        "output": {"uri": "file:///unused"},
    }
)


def launcher(
    *codes: str,
    hang: float | None = 30,
    start: float = 30,
    stop: float = math.inf,
    folder: str | None = None,
    words: Path | None = None,
) -> Launcher:
    commands = [[sys.executable, "-S", "-c", HEAD + code] for code in codes]
    told = [{"RANK": str(n)} for n in range(len(codes))]
    return Launcher(commands, told, Limits(start, hang, stop), SPEC, folder, words)


@pytest.fixture(autouse=True)
def any_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_PROGRESS_PORT", "0")


def outcome_of(verdict: str, reason: str) -> str:
    message = {"outcome": {"verdict": verdict, "reason": reason, "message": "m", "result": {"x": 1}}}
    return f"say(json.loads({json.dumps(message)!r})); sys.exit({EXIT_CODES[verdict]})"


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [("Succeeded", "Done"), ("Refused", "Bad"), ("Retry", "Preempted"), ("Failed", "Boom")],
)
def test_a_ranks_outcome_is_the_pods(verdict: str, reason: str) -> None:
    reached = "say({'progress': {'step': 4}}); say({'writing': False, 'checkpoint': 3}); "
    found = launcher(reached + outcome_of(verdict, reason)).run()
    told = {"x": 1} if verdict == "Succeeded" else {"step": 4, "checkpoint": 3}
    assert (found.verdict, found.reason, found.result) == (verdict, reason, told)


@pytest.mark.parametrize(
    ("code", "verdict", "reason"),
    [
        ("sys.exit(64)", "Refused", "RankFailed"),
        ("sys.exit(75)", "Retry", "RankFailed"),
        ("raise ValueError('secret cause')", "Failed", "RankFailed"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "Failed", "RankKilled"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "Failed", "RankKilled"),
    ],
)
def test_a_failing_rank_ends_the_others_at_once(code: str, verdict: str, reason: str) -> None:
    began = time.monotonic()
    group = launcher(WAIT, code)
    found = group.run()
    assert (found.verdict, found.reason) == (verdict, reason)
    assert "rank 1" in found.message
    assert time.monotonic() - began < 20
    assert group.ranks[0].process.returncode == -signal.SIGKILL


def test_the_cause_is_told_and_not_the_victim_that_ended_first(tmp_path: Path) -> None:
    said = tmp_path / "said"
    victim = f"while not os.path.exists({str(said)!r}): time.sleep(0.01)\nsys.exit(75)"
    message = {"outcome": {"verdict": "Failed", "reason": "Boom", "message": "the cause"}}
    cause = f"say({message!r}); open({str(said)!r}, 'w').close(); {WAIT}"
    found = launcher(victim, cause).run()
    assert (found.verdict, found.reason, found.message) == ("Failed", "Boom", "the cause")


def test_the_first_rank_may_write_its_last_lines_before_the_group_is_killed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    message = {"outcome": {"verdict": "Failed", "reason": "Boom", "message": "written"}}
    first = f"while not os.path.exists({str(gone)!r}): time.sleep(0.01)\ntime.sleep(0.2)\nsay({message!r}); sys.exit(70)"
    found = launcher(first, f"open({str(gone)!r}, 'w').close(); os._exit(70)").run()
    assert (found.reason, found.message) == ("Boom", "written")


def test_a_checkpoint_in_flight_is_written_before_the_group_is_killed(tmp_path: Path) -> None:
    writing, written = tmp_path / "writing", tmp_path / "written"
    first = (
        f"say({{'writing': True}}); open({str(writing)!r}, 'w').close(); time.sleep(1.2)\n"
        f"open({str(written)!r}, 'w').close(); say({{'writing': False}}); {WAIT}"
    )
    second = f"while not os.path.exists({str(writing)!r}): time.sleep(0.01)\nos._exit(70)"
    began = time.monotonic()
    assert launcher(first, second).run().reason == "RankFailed"
    assert written.exists()
    assert time.monotonic() - began < 20


def test_of_ranks_that_ended_together_the_one_that_lost_its_peer_is_not_blamed() -> None:
    group = launcher("sys.exit(75)", "sys.exit(70)")
    for command in group._commands:
        group._start(command, {})
    for rank in group.ranks:
        rank.process.wait()
    assert verdicts.to_blame(group.ranks).number == 1


@pytest.mark.parametrize(("kills", "reason"), [([2, 3], "OutOfMemory"), ([2, 2], "RankKilled")])
def test_a_rank_the_kernel_kills_for_memory_is_told_with_its_micro_batch(
    monkeypatch: pytest.MonkeyPatch, kills: list[int], reason: str
) -> None:
    counted = iter(kills)
    monkeypatch.setattr(out_of_memory, "kills", lambda: next(counted))
    found = launcher(f"{BEAT}; os.kill(os.getpid(), signal.SIGKILL)").run()
    assert (found.verdict, found.reason) == ("Failed", reason)
    assert "ended by SIGKILL" in found.message
    assert "1 x 99 positions of step 7" in found.message
    assert ("spec.data.maxLength" in found.message) == (reason == "OutOfMemory")


def test_word_is_left_for_the_case_that_the_whole_container_is_killed(tmp_path: Path) -> None:
    words = tmp_path / "termination"
    launcher(BEAT, words=words).run()
    text = words.read_text()
    assert text.startswith("last heard in phase compute, micro-batch of 1 x 99 positions of step 7.")
    assert "spec.data.maxLength (now 4096)" in text


def test_an_error_is_told_with_the_end_of_what_was_printed() -> None:
    assert launcher("raise ValueError('the cause')").run().message.endswith("ValueError: the cause")


def test_silence_is_a_hang_and_stacks_are_kept(tmp_path: Path) -> None:
    code = (
        f"import faulthandler; faulthandler.register(signal.SIGUSR1); print('before', flush=True); {STOPPED}"
    )
    group = launcher(code, hang=0.5, start=0.5, folder=f"file://{tmp_path}")
    found = group.run()
    assert (found.verdict, found.reason) == ("Failed", "Hang")
    assert "phase compute" in found.message
    group.leave_records()
    stacks = (tmp_path / "stacks" / f"{os.uname().nodename}-rank-0.stacks").read_text()
    assert "most recent call first" in stacks
    assert "before" not in stacks


def test_a_failed_attempt_leaves_its_records_in_the_store(tmp_path: Path) -> None:
    fails = f"say({{'progress': {{'step': 7}}}}); print('printed'); {BEAT}; raise ValueError('boom')"
    group = launcher(WAIT, fails, folder=f"file://{tmp_path}/attempt-3")
    assert group.run().verdict == "Failed"
    group.leave_records()
    pod = os.uname().nodename
    left = {str(p.relative_to(tmp_path / "attempt-3")) for p in tmp_path.rglob("*") if p.is_file()}
    of_ranks = {
        f"{kind.format(pod, n)}"
        for kind in ("logs/{}-rank-{}.log", "heartbeats/{}-rank-{}.jsonl")
        for n in (0, 1)
    }
    assert left == {*of_ranks, f"memory/{pod}.txt"}
    log = (tmp_path / "attempt-3" / f"logs/{pod}-rank-1.log").read_text()
    assert "printed" in log
    assert "ValueError: boom" in log
    beats = (tmp_path / "attempt-3" / f"heartbeats/{pod}-rank-1.jsonl").read_text().splitlines()
    assert [json.loads(beat)["step"] for beat in beats] == [7, 7]
    assert json.loads(beats[-1])["batch"] == "1 x 99 positions of step 7"
    memory = (tmp_path / "attempt-3" / f"memory/{pod}.txt").read_text()
    assert "at the start\n" in memory
    assert "at the end\n" in memory


def test_ranks_end_then_the_outcome_is_told_then_records_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that never answers is no new failure, and delays nothing but the launcher's own end."""
    order: list[str] = []
    group = launcher(WAIT, "os.kill(os.getpid(), signal.SIGKILL)", folder=f"file://{tmp_path}")

    def never(folder: str, content: object, seconds: float) -> None:
        ended = [rank.process.poll() for rank in group.ranks]
        order.append(f"stored for {seconds:.0f} s after {ended}")

    monkeypatch.setattr(attempt_records, "store", never)
    monkeypatch.setattr(launcher_module, "of_run", lambda run: group)
    monkeypatch.setattr(launcher_module, "read_run", lambda kind: None)
    monkeypatch.setattr(launcher_module, "report", lambda outcome: order.append(f"told {outcome.reason}"))
    assert launcher_module.main() == EXIT_CODES["Failed"]
    assert order == ["told RankKilled", f"stored for 1 s after {[-signal.SIGKILL] * 2}"]


def test_a_run_that_succeeds_leaves_no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = launcher("sys.exit(0)", folder=f"file://{tmp_path}")
    monkeypatch.setattr(launcher_module, "of_run", lambda run: group)
    monkeypatch.setattr(launcher_module, "read_run", lambda kind: None)
    monkeypatch.setenv("ANNEAL_TERMINATION_LOG", str(tmp_path / "termination"))
    assert launcher_module.main() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["termination"]


def test_ranks_that_do_not_stop_are_ended_before_the_kubelet_does(tmp_path: Path) -> None:
    ignoring = "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGTERM, signal.SIGUSR1)]"
    stubborn = f"{ignoring}; say({{'progress': {{'step': 5}}, 'checkpoint': 4}}); {STOPPED}"
    group = launcher(stubborn, stop=0.3)
    group._start(group._commands[0], {})
    while group.ranks[0].phase != "compute":
        time.sleep(0.02)
    group._terminate()
    found = group._watch()
    assert (found.verdict, found.reason) == ("Retry", "Preempted")
    assert "rank 0 of this pod had not 0 s later, in phase compute" in found.message
    assert verdicts.reached(group.ranks) == TrainReached(step=5, checkpoint=4)
    assert group.ranks[0].code == -signal.SIGKILL


def test_grace_leaves_time_for_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    run = FineTuneRun.model_validate(
        {
            "namespace": "n",
            "name": "j",
            "uid": "0123456789",
            "spec": SPEC.model_dump(),
            "accelerator": {"name": "cpu", "memoryGib": 1},
        }
    )
    monkeypatch.setenv("ANNEAL_GRACE_SECONDS", "100")
    monkeypatch.setenv("ANNEAL_ATTEMPT", "2")
    made = launcher_module.of_run(run)
    assert made._limits.stop == 90
    assert made._folder == "file:///unused/n/runs/j-01234567/attempt-2"
    monkeypatch.delenv("ANNEAL_GRACE_SECONDS")
    assert launcher_module.of_run(run)._limits.stop == math.inf


def test_a_rank_that_waits_for_another_pod_is_not_the_culprit() -> None:
    found = launcher("say({'phase': 'reduce'}); time.sleep(60)", hang=0.5, start=0.5).run()
    assert (found.verdict, found.reason) == ("Retry", "PeerHung")


def test_the_silence_allowed_is_five_steps_and_at_least_a_minute() -> None:
    rank = Rank(0, 0, subprocess.Popen(["true"]))
    rank.process.wait()
    rank.progress, rank.steps, rank.phase = {"step": 1}, deque([10.0, 30.0, 20.0]), "compute"
    assert Limits(600, None).of(rank) == 100
    assert Limits(600, 7).of(rank) == 7
    rank.steps = deque([1.0])
    assert Limits(600, None).of(rank) == 60
    rank.phase = "publish"
    assert Limits(600, 7).of(rank) == 600
    rank.progress = None
    assert Limits(600, 7).of(rank) == 600


def test_sigterm_reaches_every_rank_which_save_and_end_with_75() -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); say({'phase': 'ready'}); time.sleep(60)"
    group = launcher(code, code)

    def terminate() -> None:
        while len(group.ranks) < 2 or any(rank.phase != "ready" for rank in group.ranks):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert group.run().verdict == "Retry"
    finally:
        signal.signal(signal.SIGTERM, before)


def told_to_stop(group: Launcher) -> Outcome:
    """Return how ranks are judged that end once their pod was told to stop."""
    for command in group._commands:
        group._start(command, {})
    group._terminated = time.monotonic()
    try:
        return group._watch()
    finally:
        group._kill()


def test_a_rank_told_to_stop_whose_peers_are_gone_without_a_word_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranks, "STRANDED_SECONDS", 0.2)
    began = time.monotonic()
    found = told_to_stop(launcher("say({'phase': 'reduce'}); time.sleep(60)"))
    assert (found.verdict, found.reason) == ("Retry", "PeerLost")
    assert time.monotonic() - began < 20


def test_a_rank_told_to_stop_may_end_after_the_others(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    message = {"outcome": {"verdict": "Retry", "reason": "Preempted", "message": "saved"}}
    last = f"while not os.path.exists({str(gone)!r}): time.sleep(0.01)\ntime.sleep(0.5)\nsay({message!r}); sys.exit(75)"
    group = launcher(last, f"open({str(gone)!r}, 'w').close(); sys.exit(75)")
    found = told_to_stop(group)
    assert (found.reason, found.message) == ("Preempted", "saved")


def test_sigterm_while_ranks_are_started_reaches_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    group, started, start = launcher(WAIT, WAIT), [], threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        if len(started) == 5:  # the server's, the first rank's three, and now the second's first
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert group.run().reason == "Preempted"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert group.ranks[0].process.returncode == -signal.SIGTERM


def test_sigterm_before_a_ranks_first_step_is_a_preemption() -> None:
    found = told_to_stop(launcher("sys.exit(75)"))
    assert (found.verdict, found.reason) == ("Retry", "Preempted")


def test_progress_and_metrics_are_what_the_first_rank_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNEAL_ATTEMPT", "3")
    group = launcher(WAIT)
    rank = Rank(0, 0, subprocess.Popen(["true"]))
    rank.process.wait()
    progress = {"step": 3, "totalSteps": 9, "loss": 1.5, "taskLosses": {"a": 2.5}}
    rank.hear({"progress": progress}, 100.0)
    rank.hear({"progress": progress}, 100.5)
    figures = {"train/loss": 1.5, "train/gradient_norm": 0.25, 'weight/a"b': 2.0, "skipped": 1}
    rank.hear({"figures": figures}, time.monotonic())
    group.ranks = [rank]
    server = serve(group.progress, group.metrics, 0)
    assert server is not None
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        with urllib.request.urlopen(f"{address}/progress") as reply:
            told = json.load(reply)
        with urllib.request.urlopen(f"{address}/metrics") as reply:
            assert reply.headers["Content-Type"].startswith("text/plain; version=")
            text = reply.read().decode()
    finally:
        server.shutdown()
        server.server_close()
    assert (told["step"], told["totalSteps"], told["taskLosses"]) == (3, 9, {"a": 2.5})
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, sample.labels.get("task")): sample.value for sample in samples}
    assert found.pop(("anneal_train_silence_seconds", None)) < 10
    assert found == {
        ("anneal_train_step", None): 3,
        ("anneal_train_steps_planned", None): 9,
        ("anneal_train_loss", None): 1.5,
        ("anneal_train_gradient_norm", None): 0.25,
        ("anneal_train_skipped_steps", None): 1,
        ("anneal_train_step_seconds", None): 0.5,
        ("anneal_train_restarts", None): 2,
        ("anneal_train_task_weight", 'a"b'): 2.0,
    }
