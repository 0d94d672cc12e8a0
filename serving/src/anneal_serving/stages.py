"""What the stages of a model version share: their cache, their producer, and where they publish."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anneal_api.artifacts import STAGE_KINDS, Producer
from anneal_api.outcome import DeploymentInspection, PublishResult
from anneal_api.runs import DeploymentRun
from anneal_api.version import VERSION
from anneal_runtime import artifacts
from anneal_runtime.artifacts import Publication

CACHE = Path("/work")
"""The pod's writable scratch volume; copies from object stores go here."""


def inspected(config: DeploymentRun) -> DeploymentInspection:
    """Return what inspection found; every stage but inspect itself is told."""
    assert config.inspection is not None, "a stage after inspect is always given the inspection"
    return config.inspection


def key_of(config: DeploymentRun, stage: str) -> str:
    """Return the content key of one of this version's stages."""
    key: str = getattr(inspected(config).keys, stage)
    return key


def uri_of(config: DeploymentRun, stage: str) -> str:
    """Return where the artifact of one of this version's stages lies."""
    return artifacts.uri_of(config.store, config.namespace, STAGE_KINDS[stage], key_of(config, stage))


def published(config: DeploymentRun, stage: str) -> PublishResult | None:
    """Return what lies under the key of a stage by now: another deployment may have made it since inspection."""
    known = artifacts.reference(uri_of(config, stage))
    return PublishResult(artifact=known) if known else None


@contextmanager
def publish(config: DeploymentRun, stage: str, inputs: dict[str, str]) -> Iterator[Publication]:
    """Yield a folder to fill, published as the artifact of `stage`."""
    kind, key = STAGE_KINDS[stage], key_of(config, stage)
    producer = Producer(
        namespace=config.namespace,
        kind="ModelDeployment",
        name=config.name,
        uid=config.uid,
        stage=stage,
        version=VERSION,
    )
    with artifacts.publishing(
        config.store, config.namespace, kind, key, producer=producer, inputs=inputs
    ) as publication:
        yield publication
