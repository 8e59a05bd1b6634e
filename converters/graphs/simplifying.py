"""What is simplified in a graph that ``torch.onnx`` wrote: constants, shapes and layouts, and no number.

``torch.onnx.export(optimize=True)`` runs all of onnxscript's default rules. Some of them change what is computed: a
number within 1e-8 of zero is not added, a factor within 1e-5 of one not multiplied by (a normalisation without its
epsilon divides by zero), a clip of a clip whose bounds cross gives the wrong one, two slices of five elements become a
split in three and two. So the exporter runs none, and the rules here are those that move values, or fold what is
constant.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

_ROUNDS = 2
"""A rule may make room for another one; the exporter's own optimizer takes as many."""


def simplify(model: ir.Model) -> None:
    """Simplify a model as ``torch.onnx`` translated it, in place."""
    from onnxscript.optimizer import fold_constants
    from onnxscript.rewriter import RewritePass
    from onnxscript.rewriter.rules import common as rules

    moving = RewritePass(
        (
            rules.no_op_cast_rule,
            rules.no_op_expand_rule,
            rules.no_op_transpose_rule,
            rules.no_op_static_scatter_nd_rule,
            rules.no_op_dynamic_scatter_nd_rule,
            rules.collapse_slice_rule,
            rules.collapse_slice2_rule,
            rules.flatten_to_reshape_rule,
            rules.reshape_reshape_rule,
            rules.materialize_reshape_shape_rule,
            rules.transpose_transpose_rule,
            rules.unsqueeze_unsqueeze_rule,
            rules.squeeze_reshape_1d_rule,
            # Zeros around a convolution are zeros in it.
            rules.fuse_pad_into_conv_rule,
        )
    )
    common.InlinePass()(model)
    for _ in range(_ROUNDS):
        fold_constants(model, onnx_shape_inference=True)
        moving(model)
        common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.OutputFixPass()(model)
    common.NameFixPass()(model)
