"""What a gateway learns from its replicas' metrics."""

import httpx

from anneal_serving.gateway import load
from anneal_serving.gateway.balancer import Balancer
from anneal_serving.gateway.load import Report

METRICS = """# HELP anneal_requests_waiting Requests that wait for a slot.
# TYPE anneal_requests_waiting gauge
anneal_requests_waiting{model="tensorrt_llm"} 3
anneal_requests_active{model="tensorrt_llm"} 4.0
anneal_kv_cache_used_ratio{model="tensorrt_llm"} 0.250000
nv_inference_count{model="tensorrt_llm",version="1"} 9
"""


def test_requests_waiting_and_active_and_the_cache_are_read() -> None:
    assert load.report_of(METRICS) == Report(7, 0.25)
    assert load.report_of("nv_inference_count 1\n") is None


def test_metrics_are_on_their_own_port() -> None:
    assert load.metrics_url("10.0.0.1:8001") == "http://10.0.0.1:8002/metrics"
    assert load.metrics_url("[fd00::1]:8001") == "http://[fd00::1]:8002/metrics"


async def test_a_replica_that_does_not_answer_leaves_the_balancer_as_it_was() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=METRICS) if request.url.host == "a" else httpx.Response(500)

    balancer = Balancer(slots=2, max_queue=1)
    balancer.update({"a:8001", "b:8001"})
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        for address in balancer.addresses:
            await load.ask(client, balancer, address)
    # a holds seven requests of other gateways and has no slot left.
    assert [(await balancer.acquire(1, 1)).address for _ in range(2)] == ["b:8001", "b:8001"]
