"""The API server by HTTP: one client, raw JSON, so no object is built only to be taken apart again."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import urlencode

import orjson
import urllib3
from kubernetes import config as kubernetes_config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from urllib3.exceptions import HTTPError

from anneal_operator.cluster import errors, kinds
from anneal_operator.decision import Object

FIELD_MANAGER = "anneal"
Timeout = tuple[float, float]
"""Seconds to connect, and to answer."""
READ_TIMEOUT = (5.0, 30.0)
WRITE_TIMEOUT = (2.0, 8.0)
"""Together no more than the margin of the Lease that lets us write."""
LEASE_TIMEOUT = (2.0, 3.0)
Request = tuple[str, str, bytes | None, dict[str, str]]
"""Method, path and query, body, headers."""
Fence = Callable[[], AbstractContextManager[None]]
"""Around every write; may refuse it."""
PAGE = 500
CONNECTIONS = 40
"""Kept open: one for each look there may be, and the recorder's."""


class RestCluster:
    """A cluster behind an API server; may be used from many threads."""

    def __init__(self, client: ApiClient, fence: Fence = nullcontext, timeout: Timeout | None = None) -> None:
        self._client = client
        self._fence = fence
        self._read, self._write = timeout or READ_TIMEOUT, timeout or WRITE_TIMEOUT

    @classmethod
    def connect(cls, fence: Fence = nullcontext, timeout: Timeout | None = None) -> "RestCluster":
        """Return the cluster of this pod's service account, or of the kubeconfig."""
        configuration = Configuration()
        configuration.connection_pool_maxsize = CONNECTIONS
        try:
            kubernetes_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except kubernetes_config.ConfigException:
            kubernetes_config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return cls(ApiClient(configuration), fence, timeout)

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        try:
            return self._call("GET", kinds.path(kind, namespace, name))
        except errors.NotFound:
            return None

    def recall(self, kind: str, namespace: str, name: str) -> Object | None:
        return self.get(kind, namespace, name)

    def select(self, kind: str, namespace: str | None, selector: str = "", fields: str = "") -> list[Object]:
        query: dict[str, Any] = {"labelSelector": selector, "fieldSelector": fields, "limit": PAGE}
        found: list[Object] = []
        while True:
            page = self._call("GET", kinds.path(kind, namespace), query)
            found += page["items"]
            query["continue"] = page["metadata"].get("continue")
            if not query["continue"]:
                return found

    def create(self, obj: Object) -> Object:
        url = kinds.path(obj["kind"], obj["metadata"]["namespace"])
        return self._call("POST", url, {"fieldManager": FIELD_MANAGER}, obj)

    def apply(self, obj: Object) -> Object:
        meta = obj["metadata"]
        url = kinds.path(obj["kind"], meta["namespace"], meta["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return self._call("PATCH", url, query, obj, "application/apply-patch+yaml")

    def delete(self, kind: str, namespace: str, name: str, uid: str, version: str = "") -> None:
        guard = {"uid": uid, "resourceVersion": version} if version else {"uid": uid}
        options = {"propagationPolicy": "Background", "preconditions": guard}
        try:
            self._call("DELETE", kinds.path(kind, namespace, name), {}, options)
        except errors.NotFound:
            return

    def update_status(self, obj: Object) -> Object:
        meta = obj["metadata"]
        url = kinds.path(obj["kind"], meta["namespace"], meta["name"], "status")
        return self._call("PUT", url, {"fieldManager": FIELD_MANAGER}, obj)

    def replace(self, obj: Object) -> Object:
        """Write the whole object; raises Conflict if it is no longer at that resourceVersion."""
        meta = obj["metadata"]
        return self._call("PUT", kinds.path(obj["kind"], meta["namespace"], meta["name"]), {}, obj)

    def set_finalizers(self, obj: Object, finalizers: list[str]) -> Object:
        meta = obj["metadata"]
        url = kinds.path(obj["kind"], meta["namespace"], meta["name"])
        body = {"metadata": {"resourceVersion": meta["resourceVersion"], "finalizers": finalizers}}
        query = {"fieldManager": FIELD_MANAGER}
        return self._call("PATCH", url, query, body, "application/merge-patch+json")

    def serves(self, api_version: str) -> bool:
        """Return whether the API server knows a group's version."""
        try:
            return bool(self._call("GET", f"/apis/{api_version}"))
        except errors.NotFound:
            return False

    def _call(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        shown = urlencode({name: value for name, value in (query or {}).items() if value})
        headers = {"Accept": "application/json", "Content-Type": content_type}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
        request = (
            method,
            f"{path}?{shown}" if shown else path,
            orjson.dumps(body) if body else None,
            headers,
        )
        fence, timeout = (nullcontext, self._read) if method == "GET" else (self._fence, self._write)
        with fence():
            status, data = self._send(request, timeout)
        if status < 300:
            return dict(orjson.loads(data))
        raise _error(status, data)

    def _send(self, request: Request, timeout: Timeout) -> tuple[int, bytes]:
        """Send what the library has authenticated by the library's connections; its own way is as long again."""
        method, path, body, headers = request
        pool, host = self._client.rest_client.pool_manager, self._client.configuration.host
        limits = urllib3.Timeout(connect=timeout[0], read=timeout[1])
        try:
            # What is tried again by itself would pass no fence.
            answer = pool.urlopen(
                method, host + path, body=body, headers=headers, timeout=limits, retries=False, redirect=False
            )
        except HTTPError as error:
            raise errors.ApiError(0, "Unreachable", str(error)) from error
        return answer.status, answer.data


def _error(status: int, data: bytes) -> errors.ApiError:
    try:
        said = orjson.loads(data)
    except ValueError:
        said = {"message": data[:500].decode(errors="replace")}
    return errors.api_error(status, said.get("reason", ""), said.get("message", ""))
