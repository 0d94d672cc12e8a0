"""The operator's own settings: the file that the administrator's chart renders."""

import os
from pathlib import Path

import yaml
from pydantic import ValidationError

from anneal_api.base import Name
from anneal_api.profiles import AcceleratorProfile, OperatorConfig

ENV_CONFIG = "ANNEAL_CONFIG"
CONFIG_PATH = "/etc/anneal/config.yaml"


def load() -> OperatorConfig:
    """Return the settings of this process, or end it with what is wrong with the file."""
    path = Path(os.environ.get(ENV_CONFIG, CONFIG_PATH))
    try:
        return OperatorConfig.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}; set {ENV_CONFIG} to the operator's settings") from error
    except ValidationError as error:
        raise SystemExit(f"{path}: {error}") from error


def known_accelerators(config: OperatorConfig) -> str:
    """Return the names of all accelerator profiles, for a message."""
    return ", ".join(sorted(profile.name for profile in config.accelerators)) or "none"


def unknown_accelerator(config: OperatorConfig, field: str, name: Name) -> str:
    """Return the sentence for a profile that does not exist."""
    known = known_accelerators(config)
    return f"{field}: {name!r} is not an accelerator profile; the administrator has defined: {known}"


def plain_cpu(config: OperatorConfig) -> AcceleratorProfile:
    """Return a profile that asks for nothing, with the registry credentials every pod needs."""
    secrets = sorted({s for p in config.accelerators for s in p.overlay.image_pull_secrets})
    return AcceleratorProfile.model_validate(
        {"name": "plain", "memoryGib": 1, "overlay": {"imagePullSecrets": secrets}}
    )
