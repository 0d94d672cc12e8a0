"""Back from a model to the rows and the base it was made from."""

from objects import deployment, job, told
from rich.console import Console

from anneal_cli import lineage

DATASET = told("dataset", "d", write="sha256:rows", base="sha256:base")
ADAPTER = told("adapter", "a", dataset=DATASET["digest"], base="sha256:base")
MODEL = told("model", "m", adapter=ADAPTER["digest"])
ENGINE = told("engine", "e", uid="m", model=MODEL["digest"])
STORE = [DATASET, ADAPTER, MODEL, ENGINE, {"run": "pvc://store/artifacts/demo/runs/tune-01234567"}]


def test_an_engine_is_followed_to_the_rows() -> None:
    version = {"digest": MODEL["digest"], "engine": ENGINE["digest"], "stage": "Serving", "run": "abc"}
    engine, model = lineage.lineage(deployment(versions=[version]), lineage.read(STORE))
    assert (engine.role, model.role) == ("engine of abc", "model of abc")
    adapter = engine.inputs[0].inputs[0]
    assert adapter.made is not None
    assert adapter.made.manifest.kind == "adapter"
    assert [(n.role, n.digest, n.made is None) for n in adapter.inputs[1].inputs] == [
        ("base", "sha256:base", True),
        ("write", "sha256:rows", True),
    ]
    console = Console(width=200)
    with console.capture() as printed:
        console.print(lineage.render(engine))
    assert "write  sha256:rows" in printed.get()
    assert "by FineTuneJob tune" in printed.get()


def test_a_run_stands_for_what_it_has_published() -> None:
    ref = {"uri": ADAPTER["uri"], "digest": ADAPTER["digest"]}
    (adapter,) = lineage.lineage(job(status={"artifacts": {"adapter": ref}}), lineage.read(STORE))
    data = lineage.data(adapter)
    assert data["artifact"]["kind"] == "adapter"
    assert [each["role"] for each in data["inputs"]] == ["base", "dataset"]
