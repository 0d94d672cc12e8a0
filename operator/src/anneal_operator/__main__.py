"""`python -m anneal_operator`: the operator as a process."""

import logging
import os
import signal
import socket
import sys
import time

from anneal_api.base import API_VERSION
from anneal_operator import config, handlers, health, metrics
from anneal_operator.cluster.cached import CachedCluster
from anneal_operator.cluster.counted import CountedCluster
from anneal_operator.cluster.pull import HttpPods
from anneal_operator.cluster.rest import LEASE_TIMEOUT, RestCluster
from anneal_operator.leader import Leader
from anneal_operator.metrics import Metrics
from anneal_operator.reconciler import Reconciler
from anneal_operator.recorder import Recorder

ENV_LEASE = "ANNEAL_LEASE"
LEASE = "default/anneal-operator"
"""Namespace and name of the Lease by which one of several operators leads."""
ENV_HEALTH_PORT = "ANNEAL_HEALTH_PORT"
HEALTH_PORT = "8080"
ENV_METRICS_PORT = "ANNEAL_METRICS_PORT"
METRICS_PORT = "8081"
CRD_PATIENCE = 60.0
LAST_WORDS = 2.0
"""Seconds for which an operator that ends still writes Events."""


def main() -> int:
    """Read the settings, wait for the resources to be known, stand by, lead."""
    _log()
    settings = config.load()
    if not _served(RestCluster.connect()):
        print(f"the API server does not know {API_VERSION}: install the CRDs first", file=sys.stderr)
        return 1
    # As process 1 of a container only signals with a handler end it; kopf has its own later.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    checks: list[health.Check] = []
    health.serve(checks, int(os.environ.get(ENV_HEALTH_PORT, HEALTH_PORT)))
    figures = Metrics()
    metrics.serve(figures, int(os.environ.get(ENV_METRICS_PORT, METRICS_PORT)))
    leader = _leader()
    leader.lead()
    cluster = CachedCluster(
        CountedCluster(RestCluster.connect(leader.writing), figures), handlers.OWNERS.values()
    )
    recorder = Recorder(cluster, busy=lambda: figures.queue_depth() > 0)
    recorder.start()
    reconciler = Reconciler(cluster, HttpPods(), settings, metrics=figures, tell=recorder.tell)
    watch = handlers.Watch(reconciler, settings, cluster)
    checks.append(watch.trouble)
    try:
        handlers.run(watch, settings)
    finally:
        recorder.drain(LAST_WORDS)
        leader.resign()
    return 0


def _log() -> None:
    logging.basicConfig(
        level=os.environ.get("ANNEAL_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    for chatty in ("kopf.objects", "kopf.activities", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _leader() -> Leader:
    """Return this process's part in the election.

    In a container the process is always number 1, so a restarted one has the identity, and at once the Lease, of
    the one before it in the same pod, which is dead; elsewhere no two processes share an identity.
    """
    namespace, _, name = os.environ.get(ENV_LEASE, LEASE).partition("/")
    cluster = RestCluster.connect(timeout=LEASE_TIMEOUT)
    return Leader(cluster, namespace, name, f"{socket.gethostname()}_{os.getpid()}")


def _served(cluster: RestCluster) -> bool:
    """Wait a while for the CRDs: a chart installs them just before it starts the operator."""
    end = time.monotonic() + CRD_PATIENCE
    while not cluster.serves(API_VERSION):
        if time.monotonic() > end:
            return False
        time.sleep(2)
    return True


if __name__ == "__main__":
    sys.exit(main())
