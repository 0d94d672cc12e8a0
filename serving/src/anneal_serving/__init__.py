"""From a merged model to an endpoint: inspect, quantise, compile, gate, then Triton and the gateway."""
