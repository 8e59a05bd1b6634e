"""What the rewrites need to know of a convolution: its stride, its size and its padding."""

from __future__ import annotations

from typing import Any

from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from engines.schedules.phases import Border


def has_hooks(layer: nn.Module) -> bool:
    """Whether code of the user's runs before or after a layer, which then need not be what its type says."""
    return bool(layer._forward_pre_hooks or layer._forward_hooks)


def is_stepwise(layer: nn.Module | None) -> bool:
    """Whether a layer is a convolution of stride 1 whose border is zeros."""
    plain = isinstance(layer, nn.Conv2d) and layer.stride == (1, 1) and layer.padding_mode == "zeros"
    return plain and not has_hooks(layer)  # type: ignore[arg-type]


def keeps_size(layer: nn.Module | None, before: Border = (0, 0, 0, 0)) -> bool:
    """Whether a layer is a zero-padded convolution whose output is as large as what the zeros are put around."""
    if not is_stepwise(layer):
        return False
    assert isinstance(layer, nn.Conv2d)
    top, left, bottom, right = (own + added for own, added in zip(padding_of(layer), before, strict=True))
    rows, columns = (layer.dilation[axis] * (layer.kernel_size[axis] - 1) for axis in (0, 1))
    return (top + bottom, left + right) == (rows, columns)


def zeros_around(layer: nn.Module | None, node: fx.Node) -> Border | None:
    """Zeros that a node adds around a map and nothing else: top, left, bottom, right; ``None`` for any other node."""
    if isinstance(layer, nn.ZeroPad2d) and not has_hooks(layer):
        padding: Any = layer.padding
    elif node.op == "call_function" and node.target is F.pad:
        given = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | dict(node.kwargs)
        if given.get("mode", "constant") != "constant" or given.get("value") not in (None, 0, 0.0):
            return None
        padding = given["pad"]
    else:
        return None
    if not isinstance(padding, (tuple, list)) or len(padding) != 4 or not all(_is_side(side) for side in padding):
        return None
    left, right, top, bottom = padding
    return top, left, bottom, right


def _is_side(side: Any) -> bool:
    return isinstance(side, int) and side >= 0


def padding_of(conv: nn.Conv2d) -> Border:
    """Zeros that a convolution adds: top, left, bottom, right. ``"same"`` gives an odd zero to the end."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    if conv.padding == "same":
        rows, columns = (conv.dilation[axis] * (conv.kernel_size[axis] - 1) for axis in (0, 1))
        return (rows // 2, columns // 2, rows - rows // 2, columns - columns // 2)
    assert isinstance(conv.padding, tuple)
    vertical, horizontal = conv.padding
    return (vertical, horizontal, vertical, horizontal)
