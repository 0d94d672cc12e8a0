"""The API server by HTTP: one client, raw JSON, so no object is built only to be taken apart again."""

import json
from typing import Any

from kubernetes import config as kubernetes_config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

from anneal_operator.cluster import errors, kinds
from anneal_operator.decision import Object

FIELD_MANAGER = "anneal"
TIMEOUT = (5.0, 30.0)
"""Seconds to connect, and to answer."""
PAGE = 500
CONNECTIONS = 16


class RestCluster:
    """A cluster behind an API server; may be used from many threads."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    @classmethod
    def connect(cls) -> "RestCluster":
        """Return the cluster of this pod's service account, or of the kubeconfig."""
        configuration = Configuration()
        configuration.connection_pool_maxsize = CONNECTIONS
        try:
            kubernetes_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except kubernetes_config.ConfigException:
            kubernetes_config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return cls(ApiClient(configuration))

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        try:
            return self._call("GET", kinds.path(kind, namespace, name))
        except errors.NotFound:
            return None

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
        shown = [(name, value) for name, value in (query or {}).items() if value]
        headers = {"Accept": "application/json", "Content-Type": content_type}
        request = self._client.param_serialize(
            method, path, query_params=shown, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        answer = self._client.call_api(*request, _request_timeout=TIMEOUT)
        data: bytes = answer.read()  # type: ignore[no-untyped-call]
        if answer.status < 300:
            return dict(json.loads(data))
        raise _error(answer.status, data)


def _error(status: int, data: bytes) -> errors.ApiError:
    try:
        said = json.loads(data)
    except ValueError:
        said = {"message": data[:500].decode(errors="replace")}
    return errors.api_error(status, said.get("reason", ""), said.get("message", ""))
