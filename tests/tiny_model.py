"""The model that an installation is tried out with: small enough for seconds."""

from anneal_trainers.trial import CONFIG, TEMPLATE, write_tiny_model

__all__ = ["CONFIG", "TEMPLATE", "write_tiny_model"]
