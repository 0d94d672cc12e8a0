"""Routes: read from the config file, replaced as a whole, kept while the new one cannot be used."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.tiny_model import write_tiny_model

from anneal_api.artifacts import Producer
from anneal_api.base import ArtifactRef, wire
from anneal_api.runs import GatewayConfig
from anneal_runtime import artifacts
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_serving.gateway import routes
from anneal_serving.gateway.balancer import Moved
from anneal_serving.gateway.routes import Router


def publish(store: Path, key: str, *, template: str | None = None) -> ArtifactRef:
    source = write_tiny_model(store / "source")
    encoder = ChatEncoder.from_pretrained_folder(source, template)
    uri = f"file://{store}"
    with artifacts.publishing(uri, "team", "engine", key, producer=Producer(), inputs={}) as publication:
        encoder.save(publication.folder)
        (publication.folder / "openvino_model.bin").write_bytes(b"weights")
    return publication.published


def write(path: Path, engine: ArtifactRef, service: str) -> None:
    config = GatewayConfig(
        model="m",
        namespace="team",
        service=service,
        engine=engine,
        max_batch_size=2,
        max_input_length=100,
        max_sequence_length=200,
        max_queue=4,
        request_timeout_seconds=5,
    )
    path.write_text(json.dumps(wire(config)))


@pytest.fixture
async def router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Router]:
    monkeypatch.setenv(routes.ENV_REPLICAS, "10.0.0.1:8001, 10.0.0.2:8001")
    made = Router(tmp_path / "gateway.json", tmp_path / "cache")
    write(tmp_path / "gateway.json", publish(tmp_path / "store", "a" * 64), "first")
    await made.refresh()
    yield made
    await made.close()


async def test_a_route_has_the_engines_tokenizer_and_the_replicas(router: Router, tmp_path: Path) -> None:
    route = router.current
    assert route is not None
    assert route.balancer.addresses == ["10.0.0.1:8001", "10.0.0.2:8001"]
    assert route.encoder.encode([{"role": "user", "content": "x"}], add_generation_prompt=True).ids
    assert not list((tmp_path / "cache").rglob("*.bin")), "the weights are not the gateway's to read"


async def test_an_unchanged_file_keeps_the_route(router: Router) -> None:
    before = router.current
    await router.refresh()
    assert router.current is before


async def test_a_new_version_replaces_the_whole_route(router: Router, tmp_path: Path) -> None:
    before = router.current
    assert before is not None
    for _ in range(4):
        await before.balancer.acquire(1, 1)
    waiting = asyncio.create_task(before.balancer.acquire(1, 5))
    await asyncio.sleep(0)
    write(tmp_path / "gateway.json", publish(tmp_path / "store", "b" * 64, template="codefuse"), "second")
    await router.refresh()
    assert router.current is not None
    assert router.current.config.service == "second"
    turns = [{"role": "user", "content": "x"}]
    assert router.current.encoder.encode(turns).ids != before.encoder.encode(turns).ids
    with pytest.raises(Moved):
        await waiting


async def test_an_engine_that_is_not_the_one_asked_for_is_refused(router: Router, tmp_path: Path) -> None:
    before = router.current
    assert before is not None
    other = before.config.engine.model_copy(update={"digest": "sha256:" + "0" * 64})
    write(tmp_path / "gateway.json", other, "second")
    with pytest.raises(Refused, match="was asked for"):
        await router.refresh()
    assert router.current is before
