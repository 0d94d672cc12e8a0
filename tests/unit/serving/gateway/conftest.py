"""A gateway in this process, in front of scripted replicas."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.gateway_front import ADDRESSES, Front, Script, version_of
from tests.tiny_model import write_tiny_model

from anneal_api.runs import GatewayConfig
from anneal_runtime.chat import ChatEncoder
from anneal_serving.gateway.app import Gateway, server_of
from anneal_serving.gateway.balancer import Balancer
from anneal_serving.gateway.keys import Keys
from anneal_serving.gateway.replicas import Step
from anneal_serving.gateway.routes import Route, Router, Routes


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ChatEncoder:
    """The tiny model's."""
    return ChatEncoder.from_pretrained_folder(write_tiny_model(tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def front(encoder: ChatEncoder, tmp_path: Path) -> Front:
    """A gateway whose replicas answer `def f` token by token."""
    ids = [*encoder.tokenizer.encode("def f").ids, encoder.eos_ids[0]]
    script = Script([Step([token], [-0.5]) for token in ids])
    config = GatewayConfig(
        model="tiny",
        namespace="team",
        versions=[version_of()],
        max_queue=8,
        request_timeout_seconds=60,
    )
    balancer = Balancer(4, config.max_queue)
    balancer.update(ADDRESSES)
    router = Router(tmp_path / "gateway.json", tmp_path)
    router.current = Routes(config, [Route(config.versions[0], encoder, balancer)])
    keys = tmp_path / "keys"
    keys.mkdir()
    return Front(script, router, keys, encoder, Gateway(router, Keys(keys), script).app())


@pytest.fixture
def url(front: Front) -> Iterator[str]:
    """The gateway over HTTP; its lifespan is off, since nobody writes its config."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    server = server_of(front.app, "127.0.0.1", port)
    server.config.lifespan = "off"
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
