"""A local image registry on the bridge, its storage in the cache, so that images survive the cluster."""

import json
import urllib.error
import urllib.request

from cluster import network, processes, settings, shell, tools

CONFIGURATION = {
    "version": 0.1,
    "log": {"level": "warn", "accesslog": {"disabled": True}},
    "storage": {
        "filesystem": {"rootdirectory": str(settings.CACHE / "registry")},
        "delete": {"enabled": True},
        "cache": {"blobdescriptor": "inmemory"},
    },
    "http": {"addr": settings.REGISTRY},
}


def start() -> None:
    """The registry, and the bridge whose address it has."""
    network.switch()
    if processes.alive("registry"):
        return
    settings.STATE.mkdir(parents=True, exist_ok=True)
    configuration = settings.STATE / "registry.json"
    configuration.write_text(json.dumps(CONFIGURATION))
    processes.start("registry", tools.binary("registry"), "serve", configuration)
    shell.wait("registry", lambda: processes.require("registry") and answers("/v2/"))


def answers(path: str) -> bool:
    """Whether the registry has something there."""
    request = urllib.request.Request(f"http://{settings.REGISTRY}{path}", method="HEAD")
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
    try:
        return bool(urllib.request.urlopen(request, timeout=5).status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False


def has(reference: str) -> bool:
    """Whether an image of this registry was pushed."""
    repository, _, tag = reference.removeprefix(f"{settings.REGISTRY}/").rpartition(":")
    return answers(f"/v2/{repository}/manifests/{tag}")
