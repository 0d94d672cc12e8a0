"""Routes: read from the config, shared by weight, kept while the new ones cannot be used."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.gateway_front import version_of
from tests.tiny_model import write_tiny_model

from anneal_api.artifacts import Producer
from anneal_api.base import ArtifactRef, wire
from anneal_api.runs import GatewayConfig, GatewayVersion
from anneal_runtime import artifacts
from anneal_runtime.chat import ChatEncoder
from anneal_runtime.errors import Refused
from anneal_serving.gateway import routes
from anneal_serving.gateway.balancer import Balancer, Moved
from anneal_serving.gateway.routes import Route, Router, Routes


def publish(store: Path, key: str, *, template: str | None = None) -> ArtifactRef:
    source = write_tiny_model(store / "source")
    encoder = ChatEncoder.from_pretrained_folder(source, template)
    uri = f"file://{store}"
    with artifacts.publishing(uri, "team", "engine", key, producer=Producer(), inputs={}) as publication:
        encoder.save(publication.folder)
        (publication.folder / "openvino_model.bin").write_bytes(b"weights")
    return publication.published


def version(engine: ArtifactRef, name: str, weight: int = 100) -> GatewayVersion:
    return version_of(name, weight, max_batch_size=2).model_copy(update={"engine": engine})


def write(path: Path, *versions: GatewayVersion, **fields: Any) -> None:
    config = GatewayConfig(
        model="m", namespace="team", versions=list(versions), max_queue=4, request_timeout_seconds=5, **fields
    )
    path.write_text(json.dumps(wire(config)))


@pytest.fixture
def first(tmp_path: Path) -> GatewayVersion:
    return version(publish(tmp_path / "store", "a" * 64), "first")


@pytest.fixture
def second(tmp_path: Path) -> GatewayVersion:
    return version(publish(tmp_path / "store", "b" * 64, template="codefuse"), "second")


@pytest.fixture
async def router(
    tmp_path: Path, first: GatewayVersion, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Router]:
    monkeypatch.setenv(routes.ENV_REPLICAS, "10.0.0.1:8001, 10.0.0.2:8001")
    made = Router(tmp_path / "gateway.json", tmp_path / "cache")
    write(tmp_path / "gateway.json", first)
    await made.refresh()
    yield made
    await made.close()


def routed(router: Router) -> Sequence[Route]:
    assert router.current is not None
    return router.current.routes


async def test_a_route_has_the_engines_tokenizer_and_the_replicas(router: Router, tmp_path: Path) -> None:
    (route,) = routed(router)
    assert route.balancer.addresses == ["10.0.0.1:8001", "10.0.0.2:8001"]
    assert route.encoder.encode([{"role": "user", "content": "x"}], add_generation_prompt=True).ids
    assert not list((tmp_path / "cache").rglob("*.bin")), "the weights are not the gateway's to read"


async def test_an_unchanged_file_keeps_the_route(router: Router) -> None:
    before = router.current
    await router.refresh()
    assert router.current is before


async def test_a_version_that_goes_sends_those_who_wait_to_the_next(
    router: Router, tmp_path: Path, second: GatewayVersion
) -> None:
    (before,) = routed(router)
    for _ in range(4):
        await before.balancer.acquire(1, 1)
    waiting = asyncio.create_task(before.balancer.acquire(1, 5))
    await asyncio.sleep(0)
    write(tmp_path / "gateway.json", second)
    await router.refresh()
    (after,) = routed(router)
    assert after.version.service == "replicas-second"
    turns = [{"role": "user", "content": "x"}]
    assert after.encoder.encode(turns).ids != before.encoder.encode(turns).ids
    with pytest.raises(Moved):
        await waiting


async def test_a_step_of_a_rollout_keeps_queues_and_watches(
    router: Router, tmp_path: Path, first: GatewayVersion, second: GatewayVersion
) -> None:
    (before,) = routed(router)
    for weight in (10, 50):
        old = first.model_copy(update={"weight": 100 - weight})
        write(tmp_path / "gateway.json", old, second.model_copy(update={"weight": weight}))
        await router.refresh()
        assert [route.version.weight for route in routed(router)] == [100 - weight, weight]
        assert routed(router)[0].balancer is before.balancer


async def test_an_engine_that_is_not_the_one_asked_for_is_refused(
    router: Router, tmp_path: Path, first: GatewayVersion
) -> None:
    before = router.current
    other = first.engine.model_copy(update={"digest": "sha256:" + "0" * 64})
    write(tmp_path / "gateway.json", version(other, "second"))
    with pytest.raises(Refused, match="was asked for"):
        await router.refresh()
    assert router.current is before


def beside(encoder: ChatEncoder, *weights: int, replicas: Sequence[int] = (0, 1)) -> Routes:
    """Return routes of versions with these weights, of which those numbered in `replicas` have one."""
    found = [Route(version_of(str(n), weight), encoder, Balancer(1, 4)) for n, weight in enumerate(weights)]
    for number in replicas:
        found[number].balancer.update({f"10.0.0.{number}:8001"})
    versions = [route.version for route in found]
    return Routes(
        GatewayConfig(model="m", namespace="t", versions=versions, max_queue=4, request_timeout_seconds=5),
        found,
    )


@pytest.mark.parametrize(
    ("weights", "share"), [((100, 0), 0), ((90, 10), 10), ((50, 50), 50), ((0, 100), 100)]
)
def test_requests_are_shared_by_weight(encoder: ChatEncoder, weights: tuple[int, int], share: int) -> None:
    both = beside(encoder, *weights)
    picked = [both.pick(draw / 100) for draw in range(100)]
    assert sum(route is both.routes[1] for route in picked) == share


def test_a_version_without_replicas_takes_nothing_while_another_has_some(encoder: ChatEncoder) -> None:
    both = beside(encoder, 0, 100, replicas=[0])
    assert both.pick(0.5) is both.routes[0]
    assert beside(encoder, 90, 10, replicas=[]).pick(0.99).version.name == "1"


def test_another_version_is_preferred_to_one_that_has_just_failed(encoder: ChatEncoder) -> None:
    both = beside(encoder, 0, 100)
    assert both.pick(0.5, failed=both.routes[1]) is both.routes[0]
    alone = beside(encoder, 0, 100, replicas=[1])
    assert alone.pick(0.5, failed=alone.routes[1]) is alone.routes[1]


async def test_who_waits_for_a_version_that_lost_its_replicas_moves(encoder: ChatEncoder) -> None:
    both = beside(encoder, 90, 10)
    canary = both.routes[1].balancer
    await canary.acquire(1, 1)
    waiting = asyncio.create_task(canary.acquire(1, 5))
    await asyncio.sleep(0)
    canary.update(set())
    both.settle()
    with pytest.raises(Moved):
        await waiting


class ApiServer:
    """Knows one ConfigMap and any Service; the map is changed once it is watched."""

    def __init__(self, before: str, after: str) -> None:
        self.before, self.after = before, after

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = request.url.params
        if "endpointslices" in request.url.path:
            return httpx.Response(200, json={"metadata": {"resourceVersion": "1"}, "items": []})
        assert asked["fieldSelector"] == "metadata.name=m-gateway"
        if "watch" in asked:
            event = {"type": "MODIFIED", "object": self._map(self.after)}
            return httpx.Response(200, content=json.dumps(event) + "\n")
        return httpx.Response(
            200, json={"metadata": {"resourceVersion": "1"}, "items": [self._map(self.before)]}
        )

    def _map(self, text: str) -> dict[str, Any]:
        return {"metadata": {"name": "m-gateway"}, "data": {"gateway.json": text}}


async def test_a_change_is_known_before_the_file_is_mounted_anew(
    tmp_path: Path, first: GatewayVersion, second: GatewayVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(routes.ENV_REPLICAS, "10.0.0.1:8001")
    path, later = tmp_path / "gateway.json", tmp_path / "later.json"
    write(later, second, config_map="m-gateway")
    write(path, first, config_map="m-gateway")
    server = ApiServer(path.read_text(), later.read_text())
    router = Router(
        path,
        tmp_path / "cache",
        lambda: httpx.AsyncClient(transport=httpx.MockTransport(server), base_url="http://api"),
    )
    heard = asyncio.Event()
    router.changed = lambda config: heard.set() if config.versions[0].name == "second" else None
    monkeypatch.setattr(routes, "POLL_SECONDS", 0.01)
    running = asyncio.create_task(router.run())
    await asyncio.wait_for(heard.wait(), 5)
    running.cancel()
    await router.close()
