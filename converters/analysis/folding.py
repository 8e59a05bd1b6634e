"""Folding batch norms into the convolutions before them.

In evaluation mode ``bn(conv(x)) = gamma * (W x + b - mean) / sqrt(var + eps) + beta`` is one convolution. The
new weights are computed in double precision and rounded once.
"""

from __future__ import annotations

import copy
from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from converters.analysis.convolutions import has_hooks
from converters.analysis.tracing import erase, finish, layer_of, split_window


def fold_batch_norms(graph: fx.GraphModule) -> None:
    """Fold every batch norm behind a convolution used nowhere else, or behind splits of one, in place; leave others.

    The graph is a trace's own: its layers are copies of the user's.
    """
    uses = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for node in list(graph.graph.nodes):
        norm = layer_of(graph, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
            continue
        before = _before_splits(graph, node.all_input_nodes[0])
        conv = layer_of(graph, before)
        if not isinstance(conv, nn.Conv2d) or not (_is_plain(conv) and _is_plain(norm)):
            continue
        if (
            len(before.users) > 1
            or uses[before.target] > 1
            or any(held.startswith(f"{before.target}.") for held in read)
        ):
            # Its weights are needed as they are.
            continue
        # Copies: parameters may be shared with layers that stay.
        folded = fuse_conv_bn_eval(copy.deepcopy(conv).double(), copy.deepcopy(norm).double()).to(conv.weight.dtype)
        graph.set_submodule(str(before.target), folded.requires_grad_(False))
        erase(node)
    finish(graph)


def _before_splits(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """What stands before splits that nothing else reads: a norm of every channel by itself commutes with them."""
    while len(node.users) == 1 and split_window(graph, node) is not None:
        node = node.all_input_nodes[0]
    return node


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is what its type says: no subclass, hook or parametrization that folding would drop."""
    return type(layer) in (nn.Conv2d, nn.BatchNorm2d) and not has_hooks(layer)
