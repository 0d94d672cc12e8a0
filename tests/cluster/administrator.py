"""kubectl and helm as the administrator of a test's own API server."""

import json
import os
from pathlib import Path

from tests.cluster.own_server import ADMIN, OwnServer


def administrator(server: OwnServer, folder: Path) -> dict[str, str]:
    """Return the environment in which kubectl and helm speak to the server."""
    cluster = {"server": f"https://127.0.0.1:{server.port}", "insecure-skip-tls-verify": True}
    configuration = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "own", "cluster": cluster}],
        "users": [{"name": "own", "user": {"token": ADMIN}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
        "current-context": "own",
    }
    path = folder / "administrator"
    path.write_text(json.dumps(configuration))
    return {**os.environ, "KUBECONFIG": str(path)}
