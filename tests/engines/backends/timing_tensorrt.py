"""A TensorRT whose timing cache works, on a machine without a GPU.

It is TensorRT-RTX, which parses and builds for real, under the name and with the API of a version of TensorRT proper.
What TensorRT-RTX has no use for stands in here: a timing cache that follows NVIDIA's description, and a choice of
kernels that differs from build to build, as times on a real machine do. Every name of it is in that version's API.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

APIS = {path.stem.partition("-")[2]: path for path in (Path(__file__).parent / "tensorrt_api").glob("tensorrt-*.json")}
KERNELS = 5
"""Of each convolution."""
NO_TACTIC = (2**64 - 1, -1.0)
_MARK = b"\0chosen:"


class Key:
    """``TimingCacheKey``."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


class Value:
    """``TimingCacheValue``."""

    def __init__(self, tactic: int, ms: float) -> None:
        self.tacticHash, self.timingMSec = tactic, ms


class Cache:
    """``ITimingCache``."""

    def __init__(self, device: str, entries: dict[str, tuple[int, float]] | None = None) -> None:
        self._device, self._entries = device, dict(entries or {})
        self._editable = False

    def queryKeys(self) -> list[Key]:  # noqa: N802 - TensorRT's name
        if not self._editable:
            raise RuntimeError("the timing cache is not editable")
        return [Key(text) for text in self._entries]

    def query(self, key: Key) -> Value:
        return Value(*self._entries.get(str(key), NO_TACTIC))

    def update(self, key: Key, value: Value) -> bool:
        if not self._editable or str(key) not in self._entries:
            return False
        if math.isnan(value.timingMSec):
            del self._entries[str(key)]
            return True
        if value.tacticHash == NO_TACTIC[0] or value.timingMSec < 0:
            return False
        self._entries[str(key)] = (value.tacticHash, value.timingMSec)
        return True

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        if other._device != self._device and not ignore_mismatch:
            return False
        self._entries = {**other._entries, **self._entries}
        return True

    def serialize(self) -> bytes:
        return json.dumps([self._device, self._entries]).encode()


@dataclass
class Timing:
    """How the kernels are chosen, and what was asked for; a test changes it."""

    device: str = "gpu 0"
    """What a cache's header names."""
    round: int = 0
    """Builds so far: the times differ in each."""
    prefers: Callable[[str], int] | None = None
    """The number of the kernel of a layer that is the fastest; by default another one in each build."""
    ignores_the_cache_for: tuple[str, ...] = ()
    """Layers that are timed again although the cache knows them."""
    lets_misses_pass: bool = False
    """As version 11.0 does."""
    extra: Callable[[int], list[str]] = lambda number: []
    """Further problems that a build comes to, by its number."""
    layout: str = "Row major linear FP32"
    """Of all tensors."""
    builds: list[set[str]] = field(default_factory=list)
    """The flags of each build."""
    started_with: list[int] = field(default_factory=list)
    """Entries of the cache at the beginning of each build."""


def tactic_of(layer: str, kernel: int) -> int:
    """The hash of a kernel of a layer."""
    return int.from_bytes(hashlib.sha256(f"{layer}/{kernel}".encode()).digest()[:8], "big")


def key_of(layer: str) -> str:
    """The key of a layer's problem."""
    return f"0x{hashlib.sha256(layer.encode()).hexdigest()[:32]}"


class Settings:
    """``IBuilderConfig``: the real one, but for the timing cache and the flags that speak of it."""

    def __init__(self, real: Any, timing: Timing) -> None:
        self.__dict__.update(real=real, timing=timing, flags=set(), cache=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)
        if "CACHE" not in flag.name:
            self.real.set_flag(flag)

    def create_timing_cache(self, content: bytes) -> Cache:
        try:
            device, entries = json.loads(content)
        except ValueError:
            return Cache(self.timing.device)
        return Cache(device, {key: (tactic, ms) for key, (tactic, ms) in entries.items()})

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if cache._device != self.timing.device and not ignore_mismatch:
            return False
        cache._editable = "EDITABLE_TIMING_CACHE" in self.flags
        self.__dict__["cache"] = cache
        return True

    def get_timing_cache(self) -> Cache:
        return self.cache


def tensorrt_of(version: str, timing: Timing) -> ModuleType:
    """A module ``tensorrt`` of a version whose API is at hand."""
    import tensorrt_rtx as real

    api = json.loads(APIS[version].read_text(encoding="utf-8"))["api"]

    class Builder:
        def __init__(self, logger: Any) -> None:
            self._real, self._logger = real.Builder(logger), logger

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def create_builder_config(self) -> Settings:
            return Settings(self._real.create_builder_config(), timing)

        def build_serialized_network(self, network: Any, settings: Settings) -> bytes | None:
            timing.builds.append(settings.flags & {name for name in settings.flags if "CACHE" in name})
            timing.round += 1
            cache = settings.cache or Cache(timing.device)
            timing.started_with.append(len(cache._entries))
            layers = [network.get_layer(index) for index in range(network.num_layers)]
            convolutions = [layer.name for layer in layers if layer.type == real.LayerType.CONVOLUTION]
            names = convolutions or [layer.name for layer in layers if layer.type == real.LayerType.CAST]
            chosen = {}
            for name in (*names, *timing.extra(timing.round)):
                tactic = self._chosen(name, cache, settings)
                if tactic is None:
                    return None
                chosen[name] = tactic
            plan = self._real.build_serialized_network(network, settings.real)
            if plan is None:
                return None
            return bytes(plan) + _MARK + json.dumps([timing.layout, chosen]).encode()

        def _chosen(self, name: str, cache: Cache, settings: Settings) -> int | None:
            key, kernels = key_of(name), [tactic_of(name, kernel) for kernel in range(KERNELS)]
            held = cache._entries.get(key)
            if held is None and "ERROR_ON_TIMING_CACHE_MISS" in settings.flags and not timing.lets_misses_pass:
                self._logger.log(real.ILogger.ERROR, f"Timing cache miss for {name}")
                return None
            if held is None or name in timing.ignores_the_cache_for:
                number = timing.round if timing.prefers is None else timing.prefers(name)
                held = (kernels[number % KERNELS], 0.001 * timing.round)
                cache._entries[key] = held
            if held[0] not in kernels:
                self._logger.log(real.ILogger.ERROR, f"No kernel 0x{held[0]:016x} for {name}")
                return None
            return held[0]

    class Runtime:
        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            layout, chosen = json.loads(plan.partition(_MARK)[2])
            tensor = {"Name": "made up", "Dimensions": [1, 8], "Format/Datatype": layout}
            layers = [
                {
                    "Name": name,
                    "LayerType": "CaskConvolution",
                    "Inputs": [tensor],
                    "Outputs": [tensor],
                    "TacticName": f"kernel_{tactic % 97}",
                    "TacticValue": f"0x{tactic:016x}",
                }
                for name, tactic in chosen.items()
            ]
            inspector = SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": layers}))
            return SimpleNamespace(
                create_engine_inspector=lambda: inspector, create_execution_context=lambda strategy: None
            )

    class Module(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or name not in api:
                raise AttributeError(name)
            return getattr(real, name)

    def limited(owner: str, kind: type) -> type:
        """The class without what this version does not have."""
        held = {name: member for name, member in vars(kind).items() if name in api[owner]}
        return type(owner, (), held)

    module = Module("tensorrt")
    module.__dict__.update(
        __version__=version,
        Builder=Builder,
        Runtime=Runtime,
        BuilderFlag=SimpleNamespace(
            **{name: getattr(real.BuilderFlag, name, SimpleNamespace(name=name)) for name in api["BuilderFlag"]}
        ),
        ITimingCache=limited("ITimingCache", Cache),
    )
    if "TimingCacheValue" in api:
        module.__dict__["TimingCacheValue"] = Value
    return module
