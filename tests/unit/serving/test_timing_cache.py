"""TensorRT's timing cache outlives the pod that made it."""

from pathlib import Path

import fsspec
import pytest

from anneal_runtime.errors import Refused
from anneal_serving import builders, engine, inspect_stage, quantize, timing_cache

from .conftest import World

STANDIN = Path(__file__).parents[2] / "standin"
BUILDER = """#!/bin/sh
while [ "$1" != --output_dir ]; do shift; done
mkdir -p "$2" && cp -f "$TIMINGS" "$2/begun_with" 2>/dev/null
echo "timed" >> "$TIMINGS"
"""


@pytest.mark.parametrize("scheme", ["file://{}", "memory://{}"])
def test_what_one_build_has_timed_the_next_begins_with(scheme: str, tmp_path: Path) -> None:
    uri = scheme.format(tmp_path / "store/timing/a.cache")
    for number in range(3):
        path = tmp_path / f"pod{number}/timing.cache"
        with timing_cache.kept(uri, path):
            assert path.exists() == (number > 0)
            path.write_text(path.read_text() + "x" if path.exists() else "x")
    filesystem, place = fsspec.url_to_fs(uri)
    assert filesystem.cat_file(place) == b"xxx"
    assert [Path(name).name for name in filesystem.ls(str(Path(place).parent), detail=False)] == ["a.cache"]


def test_a_build_that_failed_leaves_nothing(tmp_path: Path) -> None:
    uri, path = f"file://{tmp_path}/kept.cache", tmp_path / "timing.cache"
    with pytest.raises(Refused), timing_cache.kept(uri, path):
        path.write_text("half")
        raise Refused("NoBuilder", "no")
    assert not (tmp_path / "kept.cache").exists()


def test_the_engine_stage_keeps_it_by_builder_and_profile(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/trtllm-build"
    program.parent.mkdir()
    program.write_text(BUILDER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.syspath_prepend(str(STANDIN))
    monkeypatch.setattr(builders, "compute_capability", lambda: "8.6")
    begun = []
    for slots in (2, 3):
        work = tmp_path / f"work{slots}"
        monkeypatch.setattr("anneal_serving.stages.CACHE", work)
        monkeypatch.setenv("TIMINGS", str(work / "tensorrt/timing.cache"))
        limits = {"runtime": "tensorrt-llm-engine", "maxBatchSize": slots, "maxInputLength": 64}
        run = world.run(quantization={"method": "rtn", "groupSize": 64}, engine=limits)
        run = run.model_copy(update={"inspection": inspect_stage.run(run)})
        if "quantize" not in inspect_stage.run(run).published:
            quantize.run(run)
        built = Path(engine.run(run).artifact.uri.removeprefix("file://"))
        begun.append((built / "engine/begun_with").exists())
    assert begun == [False, True]
    kept = Path(world.store.removeprefix("file://")) / "team/timing/tensorrt-llm-1.2.1-sm8.6-cpu.cache"
    assert kept.read_text() == "timed\ntimed\n"
