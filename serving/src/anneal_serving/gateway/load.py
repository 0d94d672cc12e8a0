"""What replicas report of themselves, from their metrics: so that several gateways know of one another's requests."""

import asyncio
import logging
import re
from dataclasses import dataclass

import httpx

from anneal_serving.gateway.balancer import Balancer

METRICS_PORT = 8002
POLL_SECONDS = 0.5
_SAMPLE = re.compile(r"^(anneal_\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_log = logging.getLogger("anneal.gateway")


@dataclass(frozen=True)
class Report:
    """Requests that a replica holds, waiting or active, and the share of its KV cache that they use."""

    requests: int
    kv_used: float


def report_of(text: str) -> Report | None:
    """Return what a replica's metrics say, None when they say nothing of it (yet)."""
    found = {name: float(value) for name, value in _SAMPLE.findall(text)}
    try:
        requests = found["anneal_requests_waiting"] + found["anneal_requests_active"]
    except KeyError:
        return None
    return Report(int(requests), found.get("anneal_kv_cache_used_ratio", 0.0))


def metrics_url(address: str) -> str:
    """Return where the replica at host:port publishes its metrics."""
    return f"http://{address.rpartition(':')[0]}:{METRICS_PORT}/metrics"


async def follow(client: httpx.AsyncClient, balancer: Balancer) -> None:
    """Tell the balancer what its replicas report, twice a second, for ever."""
    while True:
        await asyncio.gather(*(ask(client, balancer, address) for address in balancer.addresses))
        await asyncio.sleep(POLL_SECONDS)


async def ask(client: httpx.AsyncClient, balancer: Balancer, address: str) -> None:
    """Read one replica's metrics; one that does not answer is judged by the gateway's own requests alone."""
    try:
        report = report_of((await client.get(metrics_url(address))).raise_for_status().text)
    except (httpx.HTTPError, ValueError) as error:
        _log.debug("no metrics of a replica", extra={"replica": address, "error": repr(error)})
        return
    if report is not None:
        balancer.report(address, report.requests, report.kv_used)
