"""Networks as people have them, and what is done with them before anything looks inside.

A network is the user's code: it may be wrapped, be of parameters that are not there, change its input, or have set what
PyTorch takes as its default. Whatever is traced, rewritten or compared is a copy of it, with plain weights, and runs in
PyTorch's own defaults.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from engines.errors import NetworkError

_WRAPPERS = ("DataParallel", "DistributedDataParallel")


@contextmanager
def pinned_defaults() -> Iterator[None]:
    """PyTorch's own defaults inside the ``with`` block: float32, on the CPU, without autocast.

    What a user's module sets when it is imported, or when it runs, would else be the type and the place of tensors that
    are not the user's.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    with ExitStack() as entered:
        if torch.get_default_device().type != "cpu":
            entered.enter_context(torch.device("cpu"))
        entered.enter_context(torch.autocast("cpu", enabled=False))
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if torch.get_default_device().type != "cpu":
                # Set inside, since the block was entered with the CPU.
                torch.set_default_device(None)


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """What a network gives for ``(n, 3, H, W)``, which stays as it is, whatever the network does with its input.

    Raises what the network raises.
    """
    with pinned_defaults(), torch.inference_mode():
        logits: Tensor = network(x.clone())
    return logits


def working_copy(network: nn.Module) -> nn.Module:
    """The network on the CPU, in evaluation mode and float32, as a copy: what is handed over is left as it is.

    Tensors in half precision have the same values in float32. Raises :class:`NetworkError` for what cannot be traced at
    all, for parameters that are not there, and for those in another type.
    """
    check_whole(network)
    others = {str(tensor.dtype) for tensor in _floats(network) if tensor.dtype not in (torch.float32, *_HALVES)}
    if others:
        shown = ", ".join(sorted(others))
        raise NetworkError(f"a network is exported in torch.float32, and this one has {shown}: call .float() on it")
    return copied_network(network).cpu().float()


def half_types(network: nn.Module) -> list[str]:
    """The half precisions that a network has tensors in."""
    return sorted({str(tensor.dtype) for tensor in _floats(network)} & {str(half) for half in _HALVES})


_HALVES = (torch.float16, torch.bfloat16)


def _floats(network: nn.Module) -> list[Tensor]:
    # A state dict has no buffers that are not persistent.
    return [tensor for tensor in (*network.parameters(), *network.buffers()) if tensor.is_floating_point()]


def copied_network(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose weights are plain: what norms or parametrizations make of them, made once.

    Raises :class:`NetworkError` where it cannot be copied.
    """
    try:
        copied = own_copy(network).eval()
        with torch.no_grad():
            _make_plain(copied)
    except NetworkError:
        raise
    except Exception as error:
        # The network is the user's code and may raise anything.
        raise NetworkError(f"{type(network).__name__} cannot be copied: {error}") from error
    return copied


def own_copy(network: nn.Module) -> nn.Module:
    """A copy as it is, norms and parametrizations included. Raises :class:`NetworkError` where there can be none."""
    try:
        # A weight that a norm of the old kind has computed has a history, and copying refuses such tensors.
        computed = {id(tensor): tensor.detach().clone() for tensor in _computed_tensors(network)}
        return copy.deepcopy(network, computed)
    except Exception as error:
        # The network is the user's code and may raise anything.
        raise NetworkError(f"{type(network).__name__} cannot be copied: {error}") from error


def check_unwrapped(network: nn.Module) -> None:
    """Raise :class:`NetworkError`, with the way out, for what stands around a network's layers and hides them."""
    for path, module in network.named_modules():
        if (reason := _wrapped(module, network)) is not None:
            raise NetworkError(f"{_named(path, module)} {reason}")


def check_shapes_known(network: nn.Module) -> None:
    """Raise :class:`NetworkError` for a lazy layer, whose shape nobody knows until it has seen an input."""
    for key, value in (*network.named_parameters(), *network.named_buffers()):
        if nn.parameter.is_lazy(value):
            layer = key.rpartition(".")[0] or "network"
            raise NetworkError(
                f"the layer {layer!r} is lazy and has no shape yet ({key}); name its channels, or run the network once "
                "in its factory"
            )


def check_whole(network: nn.Module) -> None:
    """Raise :class:`NetworkError`, with the way out, for what is no network of plain layers with their values."""
    check_unwrapped(network)
    check_shapes_known(network)
    for path, module in network.named_modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            where = f"{path}.{key}" if path else key
            if tensor is not None and tensor.is_meta:
                raise NetworkError(f"{where} is on the meta device and has no values: load the weights first")


def _wrapped(module: nn.Module, network: nn.Module) -> str | None:
    """What stands around a network's layers and cannot be traced, and how to take it off."""
    if type(module).__name__ in _WRAPPERS:
        return "spreads a network over several GPUs: take the network inside it, its .module"
    if hasattr(module, "_orig_mod"):
        return "is what torch.compile made, which cannot be traced: take the module as it was before, its ._orig_mod"
    if module is network and isinstance(module, torch.jit.ScriptModule):
        return (
            "is TorchScript, which cannot be traced: take the torch.nn.Module that it was made from, with its weights"
        )
    if module is network and any(kind.__module__.startswith("torch.export") for kind in type(module).__mro__):
        return "is what torch.export made, which is of one size: take the torch.nn.Module that it was made from"
    return None


def _named(path: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"{path} ({kind})" if path else kind


def _computed_tensors(network: nn.Module) -> Iterator[Tensor]:
    for module in network.modules():
        for value in (*vars(module).values(), *module._buffers.values()):
            if isinstance(value, Tensor) and not value.is_leaf:
                yield value


def _make_plain(network: nn.Module) -> None:
    """Compute the weights that norms and parametrizations make of others, and store them in their place."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            _unparametrize(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)


def _unparametrize(module: nn.Module) -> None:
    """As ``remove_parametrizations`` does; but that changes the class, which a copy shares with what it was made of."""
    values = {name: getattr(module, name).clone() for name in module.parametrizations}  # type: ignore[union-attr]
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))
