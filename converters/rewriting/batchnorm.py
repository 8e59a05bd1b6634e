"""Folding batch norms into the convolutions before them.

In evaluation mode ``bn(conv(x)) = gamma * (W x + b - mean) / sqrt(var + eps) + beta`` is one convolution. The
new weights are computed in double precision and rounded once.
"""

from __future__ import annotations

from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from converters.rewriting.tracing import erase, layer_of


def fold_batch_norms(graph: fx.GraphModule) -> None:
    """Fold every batch norm whose input is a convolution used nowhere else; leave the others as they are."""
    uses = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        norm = layer_of(graph, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
            continue
        before = node.all_input_nodes[0]
        conv = layer_of(graph, before)
        if not isinstance(conv, nn.Conv2d) or len(before.users) > 1 or uses[before.target] > 1:
            continue
        dtype = conv.weight.dtype
        folded = fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype)
        norm.to(dtype)
        graph.set_submodule(str(before.target), folded.requires_grad_(False))
        erase(node)
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
