"""What the pods of a FineTuneJob run: inspect, prepare, train, evaluate, export."""

from anneal_api.version import VERSION as __version__

__all__ = ["__version__"]
