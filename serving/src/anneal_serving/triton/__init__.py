"""Triton: the model repository of either runtime, the CPU runtime's model, and the server's start."""
