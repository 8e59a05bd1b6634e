"""Operations of a network, counted as in Table 5: two for a multiply-accumulate, one for a bias or a ReLU.

Batch norms are not counted: deployed, they are part of the convolutions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from engines.schedules.phases import Size

_aten = torch.ops.aten


def flops_by_component(network: nn.Module, size: Size) -> dict[str, int]:
    """Operations of the direct children of ``network`` on an input ``(1, 3, H, W)``, in evaluation mode.

    Nothing is computed: only shapes are followed. Children without operations are left out.
    """
    device = next(network.parameters(), torch.empty(0)).device
    counts = _counts(copy.deepcopy(network).eval(), [torch.empty((), device=device).expand(1, 3, *size)])
    root = type(network).__name__
    components = {name: sum(counts.get(f"{root}.{name}", {}).values()) for name, _ in network.named_children()}
    total = sum(counts.get("Global", {}).values())
    rest = total - sum(components.values())
    return {name: count for name, count in {**components, "other": rest}.items() if count}


def operations(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """All operations of ``network`` on inputs of these shapes and types; their values are not looked at."""
    return sum(_counts(network, inputs).get("Global", {}).values())


def _counts(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, dict[Any, int]]:
    counter = FlopCounterMode(
        display=False,
        custom_mapping={_aten.convolution: _convolution, _aten.relu: _relu, _aten.relu_: _relu},
    )
    # Tensors without values, on the devices where they would be: a network may make some of its own.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), counter:
        network(*(torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in inputs))
    return counter.get_flop_counts()


def _convolution(
    x_shape: Any,
    w_shape: Any,
    bias_shape: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    *_: Any,
    out_shape: Any,
    **__: Any,
) -> int:
    bias = 0 if bias_shape is None else math.prod(out_shape)
    return int(conv_flop_count(x_shape, w_shape, out_shape, transposed=transposed)) + bias


def _relu(x_shape: Any, *_: Any, **__: Any) -> int:
    return math.prod(x_shape)
