"""What PyTorch says when a machine is too small for a step, in words that name the arguments to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engines.errors import MachineError

_WORKER_ENDED = ("DataLoader worker", "exited unexpectedly"), ("DataLoader worker", "killed by signal")


@contextmanager
def machine_limits() -> Iterator[None]:
    """Turn torch's errors about memory into :class:`MemoryError`, about lost workers into :class:`MachineError`."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in said:
            raise MemoryError(
                "training needs more than is free; use a smaller batch=, with accumulate= for the same gradient, "
                "or a smaller crop= or width="
            ) from error
        if any(all(part in said for part in parts) for parts in _WORKER_ENDED):
            raise MachineError(
                "a process that prepares batches was ended from outside, often for want of memory; use fewer "
                "workers=, and go on with resume=True"
            ) from error
        raise
