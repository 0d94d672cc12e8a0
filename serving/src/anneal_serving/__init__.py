"""From a merged model to an endpoint: inspect, quantise, compile, gate, then Triton and the gateway."""

from anneal_api.version import VERSION as __version__

__all__ = ["__version__"]
