"""`python -m anneal_operator`: the operator as a process."""

import logging
import os
import sys
import time

from anneal_api.base import API_VERSION
from anneal_operator import config, handlers, metrics
from anneal_operator.cluster.counted import CountedCluster
from anneal_operator.cluster.pull import HttpPods
from anneal_operator.cluster.rest import RestCluster
from anneal_operator.metrics import Metrics
from anneal_operator.reconciler import Reconciler

ENV_LIVENESS = "ANNEAL_LIVENESS"
LIVENESS = "http://0.0.0.0:8080/healthz"
ENV_METRICS_PORT = "ANNEAL_METRICS_PORT"
METRICS_PORT = "8081"
CRD_PATIENCE = 60.0


def main() -> int:
    """Read the settings, wait for the resources to be known, and run."""
    logging.basicConfig(
        level=os.environ.get("ANNEAL_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    for chatty in ("kopf.objects", "kopf.activities", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    settings = config.load()
    cluster = RestCluster.connect()
    if not _served(cluster):
        print(f"the API server does not know {API_VERSION}: install the CRDs first", file=sys.stderr)
        return 1
    figures = Metrics()
    metrics.serve(figures, int(os.environ.get(ENV_METRICS_PORT, METRICS_PORT)))
    reconciler = Reconciler(CountedCluster(cluster, figures), HttpPods(), settings, metrics=figures)
    watch = handlers.Watch(reconciler, settings)
    handlers.run(watch, settings, os.environ.get(ENV_LIVENESS, LIVENESS))
    return 0


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
