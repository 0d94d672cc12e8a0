"""What URIs say about volumes and stores; nothing here looks at storage."""

from collections.abc import Iterable, Mapping

from anneal_api.profiles import OperatorConfig

PVC = "pvc://"


def claims(inputs: Iterable[str | None], outputs: Iterable[str | None]) -> dict[str, bool]:
    """Return every claim the URIs name, and whether it may be mounted read-only."""
    reads = {_claim(uri): True for uri in inputs if uri and uri.startswith(PVC)}
    writes = {_claim(uri): False for uri in outputs if uri and uri.startswith(PVC)}
    return dict(sorted({**reads, **writes}.items()))


def _claim(uri: str) -> str:
    return uri.removeprefix(PVC).split("/", 1)[0]


def store_refusal(config: OperatorConfig, uris: Mapping[str, str | None]) -> str:
    """Return why a URI may not be used, by field; empty when all are allowed."""
    prefixes = [prefix for store in config.stores for prefix in store.prefixes]
    if not prefixes:
        return ""
    wrong = [
        f"{field}: {uri} is outside the allowed stores ({', '.join(prefixes)})"
        for field, uri in uris.items()
        if uri and not any(uri.startswith(prefix) for prefix in prefixes)
    ]
    return "; ".join(wrong)


def artifact_uri(store: str, namespace: str, kind: str, key: str) -> str:
    """Return where an artifact lies: `<store>/<namespace>/<kind>/<key>`."""
    return f"{store.rstrip('/')}/{namespace}/{kind}/{key}"


def store_of(artifact: str) -> str | None:
    """Return the store of an artifact's URI, or None when the URI is not one of a store's layout."""
    scheme, _, path = artifact.partition("://")
    parts = path.rstrip("/").split("/")
    if len(parts) < 4 or len(parts[-1]) != 64:
        return None
    return f"{scheme}://{'/'.join(parts[:-3])}"


def of_suites(field: str, suites: Iterable[str]) -> dict[str, str]:
    """Return the suites that are URIs, by the field's place."""
    return {f"{field}[{n}]": suite for n, suite in enumerate(suites) if "://" in suite}
