"""What training leaves behind in a process."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from torch.utils.data._utils import signal_handling


@pytest.fixture(autouse=True)
def _no_handler_of_torch_stays() -> Iterator[None]:
    """PyTorch's data loader takes SIGCHLD for the rest of a process that had workers.

    A test that came much later, with TensorRT and OpenVINO in the same process, was killed as it waited for a command:
    SIGSEGV by the kernel on return from that handler.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)
    signal_handling._SIGCHLD_handler_set = False
