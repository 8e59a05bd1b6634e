"""Building engines: the trunk's and that of ``prepare.onnx``, with their build record, into the bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.backends import BACKENDS, backend_named
from engines.backends.base import Backend
from engines.backends.tensorrt.backend import TENSORRT, TENSORRT_RTX, TensorRTBackend
from engines.backends.tensorrt.builder import BuildListener, BuiltEngine, engine_from_onnx
from engines.backends.tensorrt.flavours import Flavour
from engines.backends.tensorrt.machine import Machine, this_machine
from engines.backends.tensorrt.outputs import outputs_of_engine
from engines.backends.tensorrt.records import (
    BuildInputs,
    check_reproduced,
    held_engine,
    identity_of_build,
    record_of_build,
    same_tactics,
    tactics_to_reproduce,
)
from engines.backends.tensorrt.settings import BuildConfig, BuildOptions
from engines.backends.tensorrt.tactics import check_editable
from engines.backends.tensorrt.targets import Target, check_build, check_flavour, check_machine
from engines.backends.tensorrt.timing import check_timing_cache, timing_cache_content
from engines.backends.tensorrt.trtexec import trtexec_lines
from engines.backends.versions import installed_version
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import EngineRecord
from engines.bundle.records import BuildRecord, Tactic, Tactics, build_record_from_file
from engines.devices.names import DeviceName
from engines.errors import InputError, MissingDependency
from engines.planning.choice import choose_schedule, named_schedule
from engines.schedules.schedule import Lowering, Precision, Schedule, named
from engines.trust.bundles import check_trust
from engines.trust.policy import Policy


@dataclass(frozen=True)
class EngineBuild:
    """An engine of a bundle."""

    bundle: Bundle
    """The bundle with the engine."""
    engine: EngineRecord
    record: BuildRecord
    cached: bool
    """The bundle held it already: of the same graphs, TensorRT, device and flags."""


def build_engine(
    bundle: Bundle | str | Path,
    backend: str | Backend | None = None,
    precision: Precision | str = Precision.FP32,
    *,
    levels: int | None = None,
    lowering: Lowering | str | None = None,
    sub_batch: int | None = None,
    memory: int | str | None = None,
    device: str | None = None,
    target: Target | str = Target.THIS_MACHINE,
    options: BuildOptions | None = None,
    record_tactics: bool = False,
    reproduce: BuildRecord | str | Path | None = None,
    force: bool = False,
    trust: Policy | str | Path | None = None,
    listener: Callable[[str], BuildListener] = lambda graph: BuildListener(),
) -> EngineBuild:
    """Build the engines of a bundle's trunk and of its ``prepare.onnx`` on this machine, and store them in the bundle.

    An engine that the bundle holds already, of the same graphs, TensorRT, device and flags, is not built again.

    Args:
        bundle: an open bundle, or the path of one, whose files are then verified.
        backend: one that runs engines, ``"tensorrt"`` or ``"tensorrt-rtx"``; by default the first that is installed.
        precision: which of the bundle's trunks.
        levels: as ``lowering``, ``sub_batch``, ``memory`` and ``device`` of :func:`engines.choose_schedule`, which
            chooses the schedule that the engine is for. With none of these it is the bundle's first trunk, one phase
            at a time.
        lowering: see ``levels``.
        sub_batch: see ``levels``; more phases than can go together are refused, since they would never be filled.
        memory: see ``levels``; of the device.
        device: the GPU that it is built for, where there is one.
        target: where the engine shall run. A platform is refused anywhere but on itself, with the trtexec lines to
            run there.
        options: in trtexec's terms.
        record_tactics: keep in the build record which kernels TensorRT chose, so that the engine can be built again.
            They are chosen anew: a timing cache is not read, and must not be there.
        reproduce: a build record with tactics, or the path of one, of the same graphs, weights, flags, TensorRT and
            kind of device: the engine is built of its kernels. TensorRT builds twice, the first time to come to know
            its keys; with the timing cache that was written beside the record it builds once.
        force: build even if the bundle holds this engine already.
        trust: a policy, or its file: who must have signed the bundle. It is checked before anything is parsed.
        listener: for each graph, by its file name, who hears of its build.

    Raises:
        CheckFailed: the engine is not built as the record says that it was; the bundle stays as it is.
        InputError: options that exclude each other or that this TensorRT would ignore, no such schedule, or a record
            of another build.
        UntrustedBundle: the policy does not name who signed the bundle, or it was changed since.
        BundleError: the bundle is absent or damaged, or has no such trunk.
        BackendError: the target or TensorRT refuses, with TensorRT's own words.
        MissingDependency: no TensorRT is installed.
        OutputError: the bundle or the timing cache cannot be written.
    """
    bundle = Bundle.of(bundle)
    if trust is not None:
        check_trust(bundle, trust)
    precision, target = named(Precision, "precision", precision), named(Target, "target", target)
    options = options or BuildOptions()
    machine = this_machine()
    asked = _asked(backend, target)
    name = str(reproduce) if isinstance(reproduce, (str, Path)) else "the record"
    recorded = build_record_from_file(reproduce) if isinstance(reproduce, (str, Path)) else reproduce
    pinning = _Pinning(record_tactics or recorded is not None, recorded, name)
    build = _Build(bundle, precision, options, machine, target, pinning)

    def chosen(by: TensorRTBackend) -> Schedule:
        if (levels, lowering, sub_batch, memory) == (None, None, None, None):
            # A session would take what is built already; what is to be built does not depend on it.
            return named_schedule(bundle.manifest)
        schedule = choose_schedule(
            bundle, by, precision, levels=levels, lowering=lowering, sub_batch=sub_batch, memory=memory, device=device
        ).schedule
        if sub_batch is not None and sub_batch > schedule.sub_batch:
            raise InputError(
                f"at levels {schedule.levels} at most {schedule.sub_batch} phases go together; "
                f"a sub-batch of {sub_batch} is never filled"
            )
        return schedule

    # A platform that is not this machine is refused first: it says what to run there, whatever is installed here.
    check_machine(target, machine, lambda: build.trtexec(chosen(asked or TENSORRT)))
    if asked is not None:
        check_flavour(target, machine, asked.flavour)
    on = asked or _installed()
    check_flavour(target, machine, on.flavour)
    return build.on(on, chosen(on), on.device(device), force, listener)


def _asked(backend: str | Backend | None, target: Target) -> TensorRTBackend | None:
    if backend is None:
        return TENSORRT_RTX if target is Target.RTX else None
    found = backend_named(backend)
    if not isinstance(found, TensorRTBackend):
        raise InputError(f"{found} runs graphs: no engine is built for it")
    return found


def _installed() -> TensorRTBackend:
    """The first TensorRT that is there. Raises :class:`MissingDependency` where none is."""
    known = [backend for backend in BACKENDS if isinstance(backend, TensorRTBackend)]
    for backend in known:
        try:
            backend.flavour.load()
        except MissingDependency:
            continue
        return backend
    names = " or ".join(backend.flavour.module for backend in known)
    raise MissingDependency(f"TensorRT ({names})", known[-1].extra)


@dataclass(frozen=True)
class _Pinning:
    """Which kernels an engine is built of: those of a record, or those that TensorRT chooses, which may be kept."""

    kept: bool
    record: BuildRecord | None
    name: str
    """Of the record, in messages."""

    def check(self, flavour: Flavour, timing_cache: Path | None) -> None:
        """Raise for a TensorRT that has no tactics to ask for, and for a timing cache that does not serve."""
        if not self.kept:
            return
        if flavour.portable:
            raise InputError(
                "TensorRT-RTX times no kernels when it builds, so there are no tactics to record or to build with; "
                "leave record_tactics= and reproduce= out"
            )
        check_editable(flavour.load())
        if timing_cache is None:
            return
        if self.record is not None:
            timing_cache_content(timing_cache)
        elif timing_cache.exists():
            raise InputError(
                f"tactics are recorded with a new timing cache, but {timing_cache} is there; name another file"
            )

    def tactics(self, identity: dict[str, Any]) -> Tactics | None:
        """What to build with. Raises :class:`InputError` for the record of another build."""
        return None if self.record is None else tactics_to_reproduce(self.record, identity, self.name)

    def serves(self, held: BuildRecord) -> bool:
        """Whether an engine of the same build is what is asked for."""
        return same_tactics(held, self.record) if self.record is not None else not self.kept or held.tactics is not None


@dataclass(frozen=True)
class _Build:
    bundle: Bundle
    precision: Precision
    options: BuildOptions
    machine: Machine
    target: Target
    pinning: _Pinning

    def trtexec(self, schedule: Schedule) -> list[str]:
        """The same engines by trtexec."""
        manifest = self.bundle.manifest
        trunk = manifest.trunk_of(schedule)
        graph = self.bundle.path / self.bundle.trunk_graph(trunk, self.precision)
        crop = manifest.grid(trunk).crop_size
        return trtexec_lines(
            str(graph), "windows", (3, *crop), schedule.sub_batch, self.options, tf32=self.precision is Precision.TF32
        )

    def on(
        self,
        backend: TensorRTBackend,
        schedule: Schedule,
        device: DeviceName,
        force: bool,
        listener: Callable[[str], BuildListener],
    ) -> EngineBuild:
        """With one TensorRT, for one schedule."""
        bundle, flavour = self.bundle, backend.flavour
        version = str(flavour.load().__version__)
        check_build(self.target, self.machine, self.options, (flavour, version), lambda: self.trtexec(schedule))
        self.pinning.check(flavour, self.options.timing_cache)
        trunk = bundle.manifest.trunk_of(schedule)
        graph = bundle.trunk_graph(trunk, self.precision)
        inputs = BuildInputs(graph, bundle.manifest.prepare, bundle.manifest.weights)
        config = BuildConfig(
            self.precision, trunk.convolutions[self.precision.graph], sub_batch=schedule.sub_batch, options=self.options
        )
        identity = identity_of_build(bundle, inputs, config, (flavour, version), self.machine, device.index)
        tactics = self.pinning.tactics(identity)
        held = None if force else held_engine(bundle, identity, self.pinning.serves)
        if held is not None:
            return EngineBuild(bundle, *held, cached=True)
        bundle.check_writable()
        if self.options.timing_cache is not None and not flavour.portable and tactics is None:
            check_timing_cache(self.options.timing_cache)

        def built(name: str, config: BuildConfig, pinned: list[Tactic] | None) -> BuiltEngine:
            chosen = replace(
                config, record_tactics=self.pinning.kept, tactics=None if pinned is None else tuple(pinned)
            )
            return engine_from_onnx(bundle.file(name), flavour, chosen, listener(name), device)

        engine = built(inputs.graph, config, None if tactics is None else tactics.trunk)
        unconvolved = replace(config, precision=None, convolutions=None, sub_batch=1)
        prepare = built(inputs.prepare, unconvolved, None if tactics is None else tactics.prepare)
        outputs = outputs_of_engine(bundle, schedule, device, engine, prepare)
        own_version = installed_version("smp-deploy") or "unknown"
        record = record_of_build(
            identity, config, self.target, (engine, prepare), outputs, own_version, timed=not flavour.portable
        )
        if self.pinning.record is not None:
            check_reproduced(self.pinning.record, record, self.pinning.name)
        stored = bundle.with_engine(
            backend.name, self.precision, schedule, plan=engine.plan, prepare=prepare.plan, record=record
        )
        return EngineBuild(stored, stored.engines[-1], record, cached=False)
