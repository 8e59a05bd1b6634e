"""The executor of a bundle on a backend."""

from __future__ import annotations

from engines.backends import backend_of, flavour_of, runner_from_graph
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import EngineRecord, Flavour, Manifest, Precision
from engines.errors import BundleError
from engines.executors.base import Executor
from engines.executors.host import RunnerExecutor
from engines.schedules.schedule import Schedule


def executor_from_bundle(bundle: Bundle, backend: str, precision: Precision, schedule: Schedule) -> Executor:
    """Open the trunk, or the engine, of a schedule that the bundle has.

    Raises :class:`BundleError`, :class:`InputError` and :class:`MachineError` as :meth:`engines.Session.open` does.
    """
    manifest = bundle.manifest
    trunk = manifest.trunk(schedule.levels, schedule.lowering)
    flavour = flavour_of(backend)
    if flavour is not None:
        from engines.backends.tensorrt.opening import executor_from_engine

        return executor_from_engine(bundle, held_engine(bundle, flavour, precision, schedule))
    graph = bundle.trunk_graph(trunk, precision)
    prepare = runner_from_graph(bundle.file(manifest.prepare), backend)
    return RunnerExecutor(prepare, runner_from_graph(graph, backend, precision), manifest.grid(trunk))


def engine_schedules(manifest: Manifest, flavour: Flavour, precision: Precision) -> list[Schedule]:
    """The schedules that a bundle has an engine of this flavour and precision for."""
    return [
        schedule_of(engine) for engine in manifest.engines if (engine.flavour, engine.precision) == (flavour, precision)
    ]


def schedule_of(engine: EngineRecord) -> Schedule:
    """The schedule that an engine is for."""
    return Schedule(engine.levels, engine.sub_batch, engine.lowering)


def held_engine(bundle: Bundle, flavour: Flavour, precision: Precision, schedule: Schedule) -> EngineRecord:
    """The bundle's engine of this use.

    Raises :class:`BundleError`, with the command that builds it, where there is none.
    """
    for engine in bundle.manifest.engines:
        if (engine.flavour, engine.precision) == (flavour, precision) and schedule_of(engine) == schedule:
            return engine
    held = "; ".join(
        f"{engine.flavour.value} {engine.precision.value}, {schedule_of(engine)}" for engine in bundle.manifest.engines
    )
    raise BundleError(
        f"the bundle has no {flavour.value} engine in {precision.value} for {schedule} (it has: {held or 'none'}); "
        f"build it on this machine: {build_command(bundle, flavour, precision, schedule)}"
    )


def build_command(bundle: Bundle, flavour: Flavour, precision: Precision, schedule: Schedule) -> str:
    """The command that builds an engine of this use."""
    return (
        f"smp-deploy build-engine {bundle.path} --{precision.value} --flavour {backend_of(flavour)} "
        f"--levels {schedule.levels} --lowering {schedule.lowering.value} --sub-batch {schedule.sub_batch}"
    )
