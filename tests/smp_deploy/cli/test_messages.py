"""Messages below the command line speak of Python's arguments, and the command line has an option for each."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator

import pytest

from engines.errors import InputError
from smp_deploy import Augmentation, Loss, TrainingConfig, Validation, evaluate
from smp_deploy.cli.app import COMMANDS, command_named
from smp_deploy.cli.errors import _OPTIONS, _OPTIONS_OF, exit_code_of, in_options
from tests.conftest import ROOT

OTHER_TOOLS = {
    "converters/readme.py": {"--fp16", "--int8", "--maxShapes", "--optShapes"},
    "converters/reproductions/reproducing.py": {
        *("--atol", "--dumpOutput", "--load-inputs", "--load-outputs", "--loadInputs", "--onnx", "--onnxrt", "--rtol"),
        "--stronglyTyped",
    },
    "converters/verification/polygraphy_files.py": {"--load-inputs", "--load-outputs", "--onnxrt"},
    "engines/backends/tensorrt/targets.py": {"--stronglyTyped"},
    "engines/backends/tensorrt/trtexec.py": {
        "--builderOptimizationLevel",
        "--hardwareCompatibilityLevel",
        "--maxAuxStreams",
        "--memPoolSize",
        "--noTF32",
        "--onnx",
        "--saveEngine",
        "--stronglyTyped",
        "--timingCacheFile",
        "--versionCompatible",
    },
}
"""Options of trtexec and Polygraphy."""

NO_ARGUMENTS = {"smp_deploy/reports/pictures.py"}
"""Where ``name="`` is SVG's."""

PYTHON_ONLY = {
    "network": "a module in memory",
    "offset": "of a pooling layer",
    "pass_phrase": "of a key; the command line reads it from the environment or asks for it",
    "window": "of a pooling layer",
}
"""Arguments of which no command's message can speak, and why."""


def literals() -> Iterator[tuple[str, str]]:
    """``(file, text)`` of every string below the command line that is no docstring."""
    files = (path for package in ("engines", "converters", "smp_deploy") for path in (ROOT / package).rglob("*.py"))
    for path in sorted(files):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("smp_deploy/cli/"):
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                yield name, node.value


def found(pattern: str) -> dict[str, set[str]]:
    """What matches in the literals, by file."""
    by_file: dict[str, set[str]] = {}
    for name, text in literals():
        if words := set(re.findall(pattern, text)):
            by_file.setdefault(name, set()).update(words)
    return by_file


def test_no_message_below_the_command_line_names_an_option() -> None:
    assert found(r"(?<![\w-])--[a-zA-Z][\w-]*") == OTHER_TOOLS


def test_every_argument_of_a_message_has_an_option() -> None:
    words = found(r"(?<![\w/.<-])([a-z]\w*)=")
    named = set().union(*(held for name, held in words.items() if name not in NO_ARGUMENTS))
    assert {"memory", "calibration_frames", "pool_limits", "learning_rate"} <= named
    assert named - set(_OPTIONS).union(*_OPTIONS_OF.values()) == set(PYTHON_ONLY)


def test_every_figure_of_a_training_run_has_an_option() -> None:
    parts = (TrainingConfig, Augmentation, Loss, Validation)
    fields = {field.name for part in parts for field in dataclasses.fields(part)}
    # Enums and parts are not refused by name, and `warmup` is Python's alone.
    assert fields - set(_OPTIONS) == {
        "augmentation",
        "densification",
        "loss",
        "optimizer",
        "schedule",
        "validation",
        "warmup",
    }


def test_every_argument_that_an_evaluation_refuses_has_an_option() -> None:
    assert {"phases", "backend", "precision", "memory", "device", "threads", "model"} <= set(_OPTIONS) & set(
        inspect.signature(evaluate).parameters
    )


def test_every_option_of_the_table_is_one_of_a_command() -> None:
    options = {name: {text for param in command_named(name).params for text in param.opts} for name in COMMANDS}
    assert {f"--{option}" for option in _OPTIONS.values()} <= set().union(*options.values())
    for command, own in _OPTIONS_OF.items():
        assert {f"--{option}" for option in own.values()} <= options[command]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('needs more; give memory="2GiB" or allow_smaller=True', "needs more; give --memory 2GiB or --allow-smaller"),
        ("sub_batch=4 is never filled", "--sub-batch 4 is never filled"),
        ('precisions=("int8",) needs calibration_frames=', "--precision int8 needs --calibration-images"),
        ("device= is for a checkpoint", "--device is for a checkpoint"),
        ("export it again with replace=True", "export it again with --force"),
        ("received classes=19, width=0", "received --classes 19, --width 0"),
        ('or export with source="a.b:c"', "or export with --model a.b:c"),
        ('leave backend= out, or backend="openvino"', "leave --backend out, or --backend openvino"),
        # What is no argument stays: other programs' options, environment variables, unknown names, names of files.
        ("trtexec --precision=fp16 A_memory=1 colour=red", "trtexec --precision=fp16 A_memory=1 colour=red"),
        ("runs/batch=8/a.pt, batch=8/a.pt, batch=8.pt", "runs/batch=8/a.pt, batch=8/a.pt, batch=8.pt"),
        # A call is Python's.
        ('build_engine("b", sub_batch=4)', 'build_engine("b", sub_batch=4)'),
    ],
)
def test_messages_speak_in_options(message: str, shown: str) -> None:
    assert in_options(message) == shown


def test_a_command_may_have_its_own_option_for_an_argument() -> None:
    assert in_options('leave backend= out, not backend="tensorrt"', "build-engine") == (
        "leave --flavour out, not --flavour tensorrt"
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError('memory="1KiB" is too little'), 2, "--memory 1KiB is too little"),
        (MemoryError("use a smaller batch="), 3, "this machine's memory does not suffice: use a smaller --batch"),
        (MemoryError(), 3, "this machine's memory does not suffice"),
    ],
)
def test_what_a_user_reads_of_an_exception(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert exit_code_of(command) == code
    assert capsys.readouterr().err == f"smp-deploy: {line}\n"
