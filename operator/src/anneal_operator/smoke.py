"""`python -m anneal_operator.smoke NAMESPACE`: whether an operator works there, for `helm test`.

A FineTuneJob that names an accelerator nobody has defined must be refused by that name: this takes the CRDs with their
defaults, the watch, a decision and a write of the status, and asks for no image, no claim and no accelerator.
"""

import sys
import time
from collections.abc import Callable

from anneal_api.base import API_VERSION
from anneal_operator.cluster.interface import Cluster
from anneal_operator.cluster.rest import RestCluster
from anneal_operator.decision import Object

NAME = "anneal-smoke"
ACCELERATOR = "nobody-has-this"
LOOKS, SECONDS = 60, 1.0


def check(cluster: Cluster, namespace: str, wait: Callable[[float], None]) -> str:
    """Return what the operator said about such a job; empty when it said nothing in LOOKS x SECONDS. The job goes."""
    made = cluster.create(job(namespace))
    try:
        for _ in range(LOOKS):
            wait(SECONDS)
            if said := verdict(cluster.get("FineTuneJob", namespace, NAME)):
                return said
        return ""
    finally:
        cluster.delete("FineTuneJob", namespace, NAME, made["metadata"]["uid"])


def job(namespace: str) -> Object:
    """Return the job that is to be refused."""
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "baseModel": {"uri": "pvc://nothing/base"},
            "tasks": [{"name": "none", "data": {"uri": "pvc://nothing/rows.jsonl"}}],
            "workers": {"accelerator": ACCELERATOR},
            "output": {"uri": "pvc://nothing/store"},
        },
    }


def verdict(resource: Object | None) -> str:
    """Return the condition that names the accelerator; empty while there is none."""
    held = (resource or {}).get("status", {}).get("conditions", [])
    return next((str(c["message"]) for c in held if c["reason"] == "UnknownAccelerator"), "")


def main(arguments: list[str]) -> int:
    """Print what the operator said; 1 when it said nothing."""
    said = check(RestCluster.connect(), arguments[0], time.sleep)
    print(said or f"no operator answered in {LOOKS * SECONDS:.0f} s; read its log")
    return 0 if said else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
