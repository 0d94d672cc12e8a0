"""The staging copy of a checkpoint: live tensors into buffers on the CPU that are kept between saves.

Fresh memory costs a page fault every 4 KiB, several times the copy itself, so buffers are allocated at the first
save and used again. On an accelerator they are pinned and filled on a stream of their own, which starts when
the computing stream has come to the moment of the save: nothing that computes waits for the copy.
"""

from collections.abc import Mapping

import torch

Tensors = dict[str, torch.Tensor]


class Staging:
    """One set of buffers, named and shaped as the tensors of the last copy."""

    def __init__(self) -> None:
        self._buffers: Tensors = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def mark(self, live: Mapping[str, torch.Tensor]) -> list[torch.cuda.Event]:
        """Return the moment up to which work on `live` counts; called by the thread that computes."""
        devices = {tensor.device for tensor in live.values() if tensor.is_cuda}
        return [torch.cuda.current_stream(device).record_event() for device in devices]

    def copy(self, live: Mapping[str, torch.Tensor], moment: list[torch.cuda.Event]) -> Tensors:
        """Return copies of `live` as they were at `moment`; they hold until the next call."""
        self._buffers = {name: self._buffer(name, tensor) for name, tensor in live.items()}
        with torch.no_grad():
            for name, tensor in live.items():
                if tensor.is_cuda:
                    self._copy_beside(self._buffers[name], tensor, moment)
                else:
                    self._buffers[name].copy_(tensor)
        for stream in self._streams.values():
            stream.synchronize()
        return self._buffers

    def _buffer(self, name: str, like: torch.Tensor) -> torch.Tensor:
        old = self._buffers.get(name)
        if old is not None and (old.shape, old.dtype) == (like.shape, like.dtype):
            return old
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)

    def _copy_beside(
        self, buffer: torch.Tensor, tensor: torch.Tensor, moment: list[torch.cuda.Event]
    ) -> None:
        device = tensor.device
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream = self._streams[device]
        with torch.cuda.stream(stream):  # of this thread alone, and so is the current device it sets
            for event in moment:
                stream.wait_event(event)
            buffer.copy_(tensor, non_blocking=True)
