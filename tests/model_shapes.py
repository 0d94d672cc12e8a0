"""Shapes of models that plans and operators are tested with."""

from anneal_api.memory import ModelShape

SMOLLM2 = ModelShape(
    architecture="LlamaForCausalLM",
    layers=30,
    hidden=576,
    intermediate=1536,
    heads=9,
    kv_heads=3,
    head_size=64,
    vocabulary=49152,
    max_positions=8192,
    tied=True,
)
DEEPSEEK_33B = ModelShape(
    architecture="LlamaForCausalLM",
    layers=62,
    hidden=7168,
    intermediate=19200,
    heads=56,
    kv_heads=8,
    head_size=128,
    vocabulary=32256,
    max_positions=16384,
    tied=False,
)
