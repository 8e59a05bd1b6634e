"""From which layer on a written graph differs from PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from converters.analysis.modules import original_module
from converters.graphs.identity import module_of
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner


def layer_that_differs(
    path: Path, stage: nn.Module, network: fx.GraphModule, feed: Mapping[str, NDArray[np.generic]], bound: float
) -> str | None:
    """The first layer, as a user knows it, that gives other values, and the one before it; ``None`` where none does.

    Args:
        path: of the graph, in fp32, beside its weights.
        stage: that was exported.
        network: the network in it.
        feed: inputs by name, in the order of the stage's arguments.
        bound: relative to a layer's largest value.
    """
    expected = _values_in_torch(stage, network, feed)
    model = ir.load(path)
    # The last node of a module gives its result.
    last = {module_of(node): node.outputs[0] for node in model.graph}
    given = set(model.graph.outputs)
    values = {layer: value for layer, value in last.items() if layer in expected}
    model.graph.outputs.extend(value for value in values.values() if value not in given)
    with OnnxRuntimeRunner(ir.to_proto(model).SerializeToString(), weights=path.parent) as runner:
        results = runner.infer(feed)
    before = "the input"
    for layer, value in values.items():
        actual, (wanted, kind) = np.asarray(results[str(value.name)], np.float32), expected[layer]
        if actual.shape != wanted.shape:
            continue
        if not np.abs(actual - wanted).max() <= bound * np.abs(wanted).max():
            return f"{layer} ({kind}) or between it and {before}"
        before = layer
    return None


class _Recorder(fx.Interpreter):
    """Runs a network and keeps what its layers give."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.network = network
        self.calls = Counter(node.target for node in network.graph.nodes if node.op == "call_module")
        self.values: dict[str, tuple[NDArray[np.float32], str]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        # What is called twice has two results, and one name.
        if n.op == "call_module" and isinstance(result, Tensor) and self.calls[n.target] == 1:
            layer = original_module(self.network, str(n.target))
            # A copy: activations may work in place.
            self.values[layer] = (
                result.numpy().astype(np.float32),
                type(self.network.get_submodule(str(n.target))).__name__,
            )
        return result


def _values_in_torch(
    stage: nn.Module, network: fx.GraphModule, feed: Mapping[str, NDArray[np.generic]]
) -> dict[str, tuple[NDArray[np.float32], str]]:
    """By layer: its values, and its type's name."""
    recorder = _Recorder(network)

    def record(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        recorder.run(*arguments)

    hook = network.register_forward_pre_hook(record)
    try:
        with torch.inference_mode():
            stage(*(torch.from_numpy(np.array(array)) for array in feed.values()))
    finally:
        hook.remove()
    return recorder.values
