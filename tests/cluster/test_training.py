"""What a trainer can do, through whole jobs: stages, FIM with added tokens, CoBa; then preferences on top of it."""

import json
import math
from pathlib import Path

import pytest
from tests.cluster.conftest import finetunejob, upload
from tests.cluster.kube import Json, Kube, holds

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def more_rows(team: Kube, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Put documents and preferences beside the chats of the store."""
    folder = tmp_path_factory.mktemp("more")
    (folder / "data").mkdir()
    documents = [{"text": f"def f{i}(x):\n    y = x + {i}\n    return y * {i % 7}\n"} for i in range(120)]
    pairs = [
        {"prompt": f"repeat {i}", "chosen": f"{i} " * 3, "rejected": f"{i + 1} is not what you asked for"}
        for i in range(120)
    ]
    for name, rows in (("documents", documents), ("pairs", pairs)):
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    upload(team, Path(folder), ".")


def read(kube: Kube, path: str) -> str:
    """Return a file of the store."""
    return kube.run("exec", "loader", "--", "cat", f"/mnt/anneal/store/{path}")


def test_stages_with_coba_and_trained_sentinels_and_preferences_that_go_on_from_them(team: Kube) -> None:
    tasks = [
        {"name": "letters", "data": {"uri": "pvc://store/data/letters.jsonl"}},
        {
            "name": "code",
            "data": {"uri": "pvc://store/data/documents.jsonl"},
            "fim": {"rate": 0.7, "tokens": "added", "loss": "middle"},
        },
    ]
    optimization = {"globalBatchTokens": 1024, "learningRate": 0.01, "taskBalance": "coba"}
    stages = [
        {"name": "easy", "tasks": ["letters"], "curriculum": True, "epochs": 0.5},
        {"name": "all", "epochs": 1, "learningRate": 0.005},
    ]
    job = finetunejob("staged", tasks=tasks, stages=stages)
    job["spec"]["optimization"] = optimization | {
        "schedule": "wsd",
        "coba": {"warmupSteps": 2, "rows": 2},
    }
    team.apply(job)
    done = team.wait("finetunejob", "staged", holds("Complete"), 480, "Complete")
    scores = {score["name"]: score for score in done["status"]["scores"]}
    assert set(scores) == {"letters", "code"}
    assert all(float(score["tunedLoss"]) < float(score["baseLoss"]) for score in scores.values())
    merged = done["status"]["artifacts"]["merged"]["uri"].removeprefix("pvc://store/")
    assert json.loads(read(team, f"{merged}/config.json"))["vocab_size"] > 512

    preferred = preferences("preferred", f"pvc://store/{merged}", workers={"nodes": 2, "strategy": "fsdp"})
    team.apply(preferred)
    done = team.wait("finetunejob", "preferred", holds("Complete"), 480, "Complete")
    (score,) = done["status"]["scores"]
    assert float(score["baseLoss"]) == pytest.approx(math.log(2), abs=1e-4)
    assert float(score["tunedLoss"]) < 0.9 * math.log(2)

    adapter = {"rank": 8, "initFrom": done["status"]["artifacts"]["adapter"]["uri"]}
    team.apply(preferences("continued", f"pvc://store/{merged}", adapter=adapter))
    done = team.wait("finetunejob", "continued", holds("Complete"), 480, "Complete")
    (again,) = done["status"]["scores"]
    # The reference is the earlier adapter, frozen, and so what this run starts from.
    assert float(again["baseLoss"]) == pytest.approx(math.log(2), abs=1e-4)
    assert float(again["tunedLoss"]) < math.log(2)


def preferences(name: str, base: str, **changes: object) -> Json:
    """Return a job that prefers: its reference is what it starts from, whose own loss is log 2."""
    data = {"uri": "pvc://store/data/pairs.jsonl", "format": "preference"}
    job = finetunejob(name, baseModel={"uri": base}, tasks=[{"name": "pairs", "data": data}], **changes)
    job["spec"]["optimization"] |= {"objective": "dpo", "maxSteps": 8}
    return job
