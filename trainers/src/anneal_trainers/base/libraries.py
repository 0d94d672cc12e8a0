"""peft and bitsandbytes, imported without torch's compiler.

bitsandbytes has torch compile two helpers of its optimizers, which are not used here, as it is imported. That alone
imports the whole compiler: a fifth of the CPU time until a rank's first step.
"""

import torch

__all__ = ["bitsandbytes", "peft"]

_compile = torch.compile
torch.compile = lambda model=None, **options: model or (lambda helper: helper)  # type: ignore[assignment]
try:
    import bitsandbytes
finally:
    torch.compile = _compile
import peft  # noqa: E402  # it imports bitsandbytes
