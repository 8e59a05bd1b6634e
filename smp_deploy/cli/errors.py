"""The one table from exceptions to exit codes and one-line messages, in the words of the command line.

0 good, 1 a check failed, 2 bad input or usage, 3 the environment lacks something, 70 a defect of this program or of a
network's own code.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

CHECK_FAILED = 1
BAD_INPUT = 2
MACHINE_LACKS = 3
DEFECT = 70
"""What nobody foresaw; ``EX_SOFTWARE`` of sysexits.h."""

TRACEBACK = "SMP_DEPLOY_TRACEBACK"
"""The variable of the environment that asks for the traceback of a defect."""

Command: TypeAlias = Callable[[], int]


def exit_code_of(command: Command, name: str = "") -> int:
    """Run ``command``; whatever ends it becomes one message on stderr and an exit code.

    ``name`` is what the user typed for it, ``"build-engine"``.

    Anything that is not in the table is a defect of this program, or of the code of a user's network: its traceback is
    shown where the environment has :data:`TRACEBACK`.
    """
    try:
        return command()
    except KeyboardInterrupt:
        code, message = BAD_INPUT, "interrupted; nothing was left half-written"
    except SystemExit as error:
        # A network's own code may call sys.exit: no exit code but ours says that a check failed.
        if not error.code:
            return 0
        code, message = _defect(error)
    except Exception as error:  # noqa: BLE001 - Python would end with 1, which says that a check failed
        code = _code_of(error)
        code, message = (code, _message(error, name)) if code else _defect(error)
    from smp_deploy.cli.console import complain

    complain(message)
    return code


def _defect(error: BaseException) -> tuple[int, str]:
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    if os.environ.get(TRACEBACK):
        where = "".join(traceback.format_exception(error)).rstrip()
        return DEFECT, f"a defect: {said}\n{where}"
    return DEFECT, f"a defect: {said}; please report it, with what {TRACEBACK}=1 in the environment shows"


def _code_of(error: Exception) -> int:
    """The exit code of an exception, 0 for what is no user's mistake."""
    # Imported where something went wrong: a session's needs would double the time of `--help`.
    from engines.errors import CheckFailed, InputError, MachineError

    table: tuple[tuple[type[Exception], int], ...] = (
        (CheckFailed, CHECK_FAILED),
        (InputError, BAD_INPUT),
        (MachineError, MACHINE_LACKS),
        (OSError, BAD_INPUT),
        (MemoryError, MACHINE_LACKS),
    )
    return next((code for kind, code in table if isinstance(error, kind)), 0)


def _message(error: Exception, command: str) -> str:
    if isinstance(error, MemoryError):
        return in_options(f"this machine's memory does not suffice{f': {error}' if str(error) else ''}", command)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        hint = "; free some space or choose another place" if error.errno == errno.ENOSPC else ""
        return f"{where}{error.strerror or error}{hint}"
    from engines.errors import MissingEngine

    if isinstance(error, MissingEngine):
        return f"{error.what}; build it on this machine: {build_engine_line(error.bundle, **error.use)}"
    return in_options(str(error), command)


def build_engine_line(
    bundle: Path, backend: str, precision: str, levels: int, lowering: str, sub_batch: int, device: str | None = None
) -> str:
    """What to type to build an engine."""
    words = ["smp-deploy", "build-engine", bundle, f"--{precision}", "--flavour", backend]
    words += ["--levels", levels, "--lowering", lowering, "--sub-batch", sub_batch]
    words += [] if device is None else ["--device", device]
    return shlex.join(map(str, words))


_OPTIONS = {
    **{
        name: name.replace("_", "-")
        for name in (
            "accumulate",
            "allow_smaller",
            "arch",
            "aspect",
            "averaging",
            "backbone_only",
            "backend",
            "batch",
            "calibration",
            "calibration_percentile",
            "certificate",
            "certificate_chain",
            "class_weighting",
            "classes",
            "clip_norm",
            "crop",
            "dense_levels",
            "device",
            "engine",
            "epochs",
            "flip",
            "init_from",
            "input",
            "input_color",
            "input_layout",
            "input_mean",
            "input_scale",
            "jitter",
            "keep_fp32",
            "key",
            "label_type",
            "learning_rate",
            "levels",
            "loop",
            "lovasz",
            "lowering",
            "max_aux_streams",
            "max_pool",
            "mean",
            "memory",
            "model",
            "opset",
            "output_layout",
            "outputs",
            "patience",
            "phases",
            "precision",
            "quick",
            "record_tactics",
            "reproduce",
            "remember",
            "resume",
            "root",
            "rounds",
            "scale",
            "seed",
            "size",
            "std",
            "strip_prefix",
            "sub_batch",
            "target",
            "threads",
            "threshold",
            "timing_cache",
            "trust",
            "until",
            "upsampling",
            "version_compatible",
            "weight_decay",
            "weights",
            "width",
            "workers",
            "yuv_matrix",
            "yuv_range",
        )
    },
    "calibration_frames": "calibration-images",
    "every_epochs": "validate-every",
    "hardware_compatibility": "hardware-compatibility-level",
    "lowerings": "lowering",
    "optimization_level": "builder-optimization-level",
    "pool_limits": "pool-limit",
    "precisions": "precision",
    "reference_frames": "reference-images",
    "replace": "force",
    "seconds": "duration",
    "source": "model",
}
"""Arguments of the Python functions, and the options that stand for them."""

_OPTIONS_OF = {"build-engine": {"backend": "flavour"}, "export": {"version": "bundle-version"}}
"""Where a command has another option for an argument than the others."""

_ARGUMENT = re.compile(
    r"""(?<![\w/.-])([a-z]\w*)="""
    r"""(?:True\b|"([^"]*)"|'([^']*)'|\(["']([^"']*)["'],\)|(\d+(?:\.\d+)?))?"""
    # What goes on, is a part of a file's name: batch=8.safetensors, width=2/a.png.
    r"""(?![\w/"'(-]|\.\w)"""
)

_CALL = re.compile(r"(\w+\([^()]*\))")


def in_options(message: str, command: str = "") -> str:
    """A message that speaks of Python arguments, in a command's options: ``memory="2GiB"`` -> ``--memory 2GiB``."""
    options = {**_OPTIONS, **_OPTIONS_OF.get(command, {})}

    def option(found: re.Match[str]) -> str:
        if found[1] not in options:
            return found[0]
        value = next((text for text in found.groups()[1:] if text), "")
        return f"--{options[found[1]]} {value}".rstrip()

    # A call that the message shows is Python and stays whole.
    parts = _CALL.split(message)
    return "".join(part if index % 2 else _ARGUMENT.sub(option, part) for index, part in enumerate(parts))
