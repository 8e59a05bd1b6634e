"""Shrink-expand steps against the full split-merge network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from converters.networks import SMP, network_from_arch
from converters.pooling import nested_phase
from engines.errors import InputError
from smp_deploy.training import Sampling, draw_sampling, sampled_labels, sampled_logits

OFFSETS = [
    ((0, 0), (0, 0), (0, 0), (0, 0), (0, 0)),
    ((1, 0), (0, 1), (1, 1), (0, 1), (1, 0)),
    ((1, 1), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((0, 1), (1, 0), (0, 1), (1, 1), (0, 0)),
]


def _smp(backbone: str = "resnet18") -> SMP:
    """In evaluation mode with lively batch norms: their statistics are fixed, and every gradient is real."""
    torch.manual_seed(3)
    network = network_from_arch(f"smp-{backbone}", classes=3, width=4).double()
    assert isinstance(network, SMP)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def _restricted(full: Tensor, sampling: Sampling) -> Tensor:
    """The full-resolution map at the sampled elements, by plain slicing: a list of split batches."""
    levels = len(sampling.offsets)
    (h, w), (row, column) = nested_phase([(2, 2)] * levels, list(sampling.offsets))
    kept = [full[..., row::h, column::w]]
    for _ in range(sampling.dense_levels):
        kept = [part[..., r::2, c::2] for part in kept for r in (0, 1) for c in (0, 1)]
    return torch.stack(kept, dim=1).flatten(0, 1)


@pytest.mark.parametrize("dense_levels", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("backbone", "offsets"), [*(("resnet18", offsets) for offsets in OFFSETS), ("resnet50", OFFSETS[1])]
)
def test_gradient_is_that_of_the_full_network_restricted_to_the_sampled_elements(backbone, offsets, dense_levels):
    _assert_gradient_of_the_full_network(_smp(backbone), Sampling(offsets[: 5 - dense_levels]))


@pytest.mark.parametrize("seed", range(8))
def test_gradient_is_that_of_the_full_network_at_random_offsets(seed):
    sampling = draw_sampling(seed % 4, torch.Generator().manual_seed(seed))
    _assert_gradient_of_the_full_network(_smp(), sampling)


def _assert_gradient_of_the_full_network(network: SMP, sampling: Sampling) -> None:
    x = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    labels = torch.randint(3, (2, 32, 64))

    full = _restricted(network(x), sampling)
    truth = _restricted(labels, sampling)
    torch.nn.functional.cross_entropy(full, truth).backward()
    expected = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    network.zero_grad()

    sampled = sampled_logits(network, x, sampling)
    assert torch.equal(sampled_labels(labels, sampling), truth)
    torch.testing.assert_close(sampled, full, rtol=0, atol=1e-10)
    torch.nn.functional.cross_entropy(sampled, truth).backward()
    for name, parameter in network.named_parameters():
        scale = expected[name].abs().max().clamp(min=1e-3)
        assert ((parameter.grad - expected[name]).abs().max() / scale) < 1e-5, name


def test_gradient_equals_that_of_the_networks_own_training_mode_where_nothing_is_normalised():
    """The network in training mode shrinks by itself; without batch norms both are one function."""
    network = _smp()
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.Identity())
    network.train()
    for split, offset in zip(network.splits, OFFSETS[1], strict=True):
        split.shared.pinned = offset
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = network.split_logits(x)
    sampled = sampled_logits(network, x, Sampling(OFFSETS[1]))
    torch.testing.assert_close(sampled, expected, rtol=1e-9, atol=1e-9)


def test_dense_levels_leave_the_splits_in_the_mode_they_had():
    network = _smp().train()
    sampled_logits(network, torch.randn(2, 3, 32, 32, dtype=torch.float64), Sampling(OFFSETS[0][:3]))
    assert all(split.training for split in network.splits)


def test_offsets_are_uniform_and_a_function_of_the_generator():
    draws = [draw_sampling(0, torch.Generator().manual_seed(seed)).offsets for seed in range(400)]
    assert draws[7] == draw_sampling(0, torch.Generator().manual_seed(7)).offsets
    mean = torch.tensor(draws, dtype=torch.float64).mean(0)
    assert ((mean - 0.5).abs() < 0.1).all()  # four standard deviations


@pytest.mark.parametrize("dense_levels", [-1, 4])
def test_at_least_the_first_two_levels_are_shrunk(dense_levels):
    with pytest.raises(InputError, match="dense levels are 0 to 3; received"):
        draw_sampling(dense_levels)
    with pytest.raises(InputError, match="received 1 offsets"):
        Sampling(((0, 0),))


def test_a_step_needs_no_more_memory_than_fcn32s():
    """Of what is kept for the backward pass, at SMP-18's real width; within a tenth of FCN32s's."""
    kept = {}
    x = torch.randn(1, 3, 64, 64)
    for arch in ("smp-resnet18", "fcn32s-resnet18"):
        network = network_from_arch(arch, classes=19)
        parameters = {parameter.data_ptr() for parameter in network.parameters()}
        storages: dict[int, int] = {}

        def pack(tensor: Tensor, parameters=parameters, storages=storages) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        alive = []
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            sampling = Sampling(OFFSETS[1])
            out = sampled_logits(network, x, sampling) if isinstance(network, SMP) else network(x)
            alive.append(out.log_softmax(1))
        kept[arch] = sum(storages.values())
    assert kept["smp-resnet18"] <= 1.1 * kept["fcn32s-resnet18"]
