"""What a rank says reaches its launcher, line by line, with the step and the micro-batch it is in."""

import json
import os

import pytest

from anneal_trainers.pod.channel import ENV_CHANNEL, Channel


def test_a_beat_names_phase_step_and_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setenv(ENV_CHANNEL, str(writing))
    channel = Channel.from_environment()
    channel.beat("step", step=4)
    channel.beat("compute", shape=(1, 99))
    channel.send({"progress": {"step": 4}})
    channel.beat("validate", shape=(2, 7))
    channel.beat("save")
    os.close(writing)
    with os.fdopen(reading) as lines:
        said = [json.loads(line) for line in lines]
    assert said == [
        {"phase": "step", "batch": ""},
        {"phase": "compute", "batch": "1 x 99 positions in step 4"},
        {"progress": {"step": 4}},
        {"phase": "validate", "batch": "2 x 7 positions in step 4"},
        {"phase": "save", "batch": ""},
    ]


def test_a_message_that_the_pipe_takes_in_parts_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    write, message = os.write, {"progress": {"stage": "x" * 100}}
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    Channel(writing).send(message)
    os.close(writing)
    with os.fdopen(reading) as lines:
        assert [json.loads(line) for line in lines] == [message]


def test_without_a_launcher_nothing_is_written_and_all_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_CHANNEL, raising=False)
    channel = Channel.from_environment()
    channel.beat("compute", step=1, shape=(1, 8))
    assert (channel.phase, channel.batch) == ("compute", "1 x 8 positions in step 1")
