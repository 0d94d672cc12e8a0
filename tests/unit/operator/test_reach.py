"""Whether a policy holds is told apart from a network that loses packets, or lets nothing through."""

import socket
from collections.abc import Callable

import pytest

from anneal_operator import reach
from anneal_operator.reach import ALLOWED, DENIED, connector, verdict


class Network:
    """A network whose ports answer as functions of the seconds waited and of how often they were asked."""

    def __init__(self, **ports: Callable[[int, int], bool]) -> None:
        self.ports, self.waited, self.asked = ports, 0, 0

    def connects(self, port: int) -> bool:
        self.asked += 1
        return self.ports["denied" if port == DENIED else "allowed"](self.waited, self.asked)

    def wait(self, seconds: float) -> None:
        self.waited += 1


@pytest.mark.parametrize(
    ("allowed", "denied", "wanted"),
    [
        (lambda s, n: True, lambda s, n: False, "enforced"),
        (lambda s, n: True, lambda s, n: True, "ignored"),
        (lambda s, n: s > 5, lambda s, n: s < 12, "enforced"),
        (lambda s, n: True, lambda s, n: n % 3 > 0, "ignored"),
        (lambda s, n: False, lambda s, n: False, "unknown"),
        (lambda s, n: n < 3, lambda s, n: False, "unknown"),
    ],
    ids=["at once", "never", "late", "a lost packet", "no way", "a network that fails"],
)
def test_what_the_ports_do_decides(
    allowed: Callable[[int, int], bool], denied: Callable[[int, int], bool], wanted: str
) -> None:
    network = Network(allowed=allowed, denied=denied)
    assert verdict(network.connects, network.wait) == wanted
    assert network.waited <= reach.START + reach.GRACE


def test_a_port_is_tried_by_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert connector("127.0.0.1")(port)
    assert not connector("127.0.0.1")(port)


def test_what_it_cannot_do_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert reach.main(["ask"]) == 64
    assert "usage" in capsys.readouterr().err


def test_what_was_found_is_a_line_of_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("anneal_operator.reach.connector", lambda address: lambda port: port == ALLOWED)
    assert reach.main(["ask", "10.0.0.1"]) == 0
    assert capsys.readouterr().out == '{"policies": "enforced"}\n'
