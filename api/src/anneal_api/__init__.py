"""Anneal's resources as types, and the contracts between its operator and its pods."""

from anneal_api.version import VERSION as __version__

__all__ = ["__version__"]
