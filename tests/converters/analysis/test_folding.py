"""Folding against hand-computed values, and what is left alone."""

import torch
from torch import Tensor, nn

from converters.analysis.folding import fold_batch_norms
from converters.analysis.tracing import graph_from_network


def test_one_channel_by_hand() -> None:
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    conv.weight.data.fill_(3)
    conv.bias.data.fill_(1)  # type: ignore[union-attr]
    norm.running_mean.fill_(2)  # type: ignore[union-attr]
    norm.running_var.fill_(4)  # type: ignore[union-attr]
    norm.weight.data.fill_(6)
    norm.bias.data.fill_(0.5)
    graph = graph_from_network(nn.Sequential(conv, norm))
    fold_batch_norms(graph)
    (folded,) = (module for module in graph.modules() if isinstance(module, nn.Conv2d))
    # 6 * (3x + 1 - 2) / 2 + 0.5 = 9x - 2.5
    assert folded.weight.item() == 9
    assert folded.bias.item() == -2.5  # type: ignore[union-attr]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())


def test_folding_stays_exact_for_ill_scaled_statistics() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
    norm.running_var.uniform_(1e-8, 1e4)  # type: ignore[union-attr]
    norm.running_mean.normal_(std=10)  # type: ignore[union-attr]
    network = nn.Sequential(conv, norm).eval()
    graph = graph_from_network(network)
    fold_batch_norms(graph)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        exact = network.double()(x.double())
        assert float((graph(x) - exact).abs().max() / exact.abs().max()) < 1e-6


def test_shared_convolutions_and_other_norms_are_left_alone() -> None:
    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.norm1, self.norm2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.alone = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm1(self.conv(self.alone(x))) + self.norm2(self.conv(x))

    graph = graph_from_network(Sharing())
    fold_batch_norms(graph)
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert sorted(called) == ["alone", "conv", "conv", "norm1", "norm2"]
