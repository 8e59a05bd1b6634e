"""The commands and options that users type: none is lost, none changes its meaning; help and completion know them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from engines.backends import BACKENDS
from smp_deploy.cli.app import COMMANDS, app, command_named
from smp_deploy.cli.options import backend_names
from tests.conftest import Cli

KNOWN = json.loads((Path(__file__).parent / "options.json").read_text(encoding="utf-8"))
"""Written once, from the commands before their parser was exchanged. An option that is new need not be in it."""

_TYPES = {"int range": "int", "float range": "float", "str": "text", "boolean": "flag"}
_PARSERS = {"frame_size": "HxW", "memory_bytes": "SIZE", "_percentiles": "LIST", "backend_name": "choice"}


def command_of(name: str) -> Any:
    return get_command(app) if name == "smp-deploy" else command_named(name)


def type_of(param: Any) -> str:
    names = [kind.name for kind in getattr(param.type, "types", (param.type,))]
    return " ".join(_PARSERS.get(name) or _TYPES.get(name, name) for name in names)


def described(param: Any, context: Any) -> dict[str, Any]:
    """What a user sees and types of a parameter."""
    text = param.get_help_record(context)[1]
    shown = re.findall(r"\[(default: .*?|[^\[\]]*x[<>][^\[\]]*|required)\]", text)
    choices = "backends" if "--backend" in param.opts else list(getattr(param.type, "choices", ()))
    return {
        "names": sorted(param.opts, key=len),
        "type": type_of(param),
        "metavar": param.metavar,
        "choices": choices,
        "multiple": getattr(param, "multiple", False),
        "shown": [fact for part in shown for fact in part.split("; ")],
    }


def test_no_command_is_lost_and_their_order_is_the_workflow() -> None:
    assert [name for name in COMMANDS if name in KNOWN] == [name for name in KNOWN if name != "smp-deploy"]


@pytest.mark.parametrize("name", KNOWN)
def test_no_option_is_lost(name: str) -> None:
    command = command_of(name)
    context = command.context_class(command, info_name=name)
    found = {names: described(param, context) for param in command.params for names in param.opts if names[0] == "-"}
    for known in KNOWN[name]["options"]:
        # A metavar that the old parser made of the type may be another word now.
        for part, value in known.items():
            assert found[known["names"][0]][part] == value, (known["names"], part)
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    assert [
        {
            "name": param.metavar.strip("[]."),
            "type": type_of(param),
            "required": param.required,
            "multiple": param.nargs == -1,
        }
        for param in arguments
    ] == KNOWN[name]["arguments"]


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "smp-deploy"])
def test_the_backends_of_an_option_are_those_of_the_engines(name: str) -> None:
    for option in command_named(name).params:
        if "--backend" in option.opts:
            assert option.metavar == f"<{'|'.join(backend_names())}>"


def test_the_list_says_what_each_command_says(cli: Cli) -> None:
    listed = cli("--help", env={**os.environ, "COLUMNS": "140", "TERMINAL_WIDTH": "140"}).stdout
    for name, entry in COMMANDS.items():
        command = command_named(name)
        assert command.get_short_help_str() == entry.short_help
        assert f"  {name} " in listed
        assert " ".join(entry.short_help.split()) in " ".join(listed.split())
    assert "Exit codes: 0 good, 1 a check failed, 2 bad input or usage, 3" in " ".join(listed.split())


def test_short_and_long_help_of_every_command_are_one(cli: Cli) -> None:
    for words in ((), ("flops",)):
        assert cli(*words, "-h").stdout == cli(*words, "--help").stdout
    assert cli("flops", "-h").stdout.startswith("Usage: smp-deploy flops [OPTIONS]\n")
    assert "Usage: smp-deploy run [OPTIONS] BUNDLE IMAGES...\n" in cli("run", "-h").stdout


def test_without_a_command_the_help_is_shown(cli: Cli) -> None:
    result = cli()
    assert result.returncode == 2
    assert "Usage: smp-deploy [OPTIONS] COMMAND [ARGS]..." in result.stderr


def completed(cli: Cli, line: str) -> list[str]:
    """What bash is told to offer after a line."""
    words = line.split(" ")
    asked = {"_SMP_DEPLOY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = cli(env={**os.environ, **asked})
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("smp-deploy ev", ["evaluate"]),
        ("smp-deploy run --low", ["--lowering"]),
        ("smp-deploy run --lowering ", ["reshape", "strided", "dilated"]),
        ("smp-deploy debug-precision --precision i", ["int8"]),
        ("smp-deploy bench --backend onnxruntime-", ["onnxruntime-cuda"]),
    ],
)
def test_a_shell_completes_commands_options_and_choices(cli: Cli, line: str, offered: list[str]) -> None:
    assert completed(cli, line) == offered


def test_a_shell_completes_every_command(cli: Cli) -> None:
    assert completed(cli, "smp-deploy ") == list(COMMANDS)


def test_the_script_of_the_completion_names_the_program(cli: Cli) -> None:
    # Without a shell above it there is none to be detected; the test names one.
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    result = cli("--show-completion", "bash", env=environment)
    assert result.returncode == 0, result.stderr
    assert "_SMP_DEPLOY_COMPLETE=complete_bash" in result.stdout


def test_the_completion_is_installed_for_the_user(cli: Cli, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    result = cli("--install-completion", "bash", env=environment)
    assert result.returncode == 0, result.stderr
    script = tmp_path / ".bash_completions" / "smp-deploy.sh"
    assert "complete -o default -F _smp_deploy_completion smp-deploy" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


def test_help_loads_neither_numpy_nor_the_engines() -> None:
    # Started as a user starts it: the fixture's commands are forked where all is loaded.
    command = [Path(sys.executable).with_name("smp-deploy"), "--help"]
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    loaded = {line.split("|")[-1].strip() for line in result.stderr.splitlines() if line.startswith("import time")}
    assert "typer" in loaded
    heavy = {"numpy", "msgspec", "engines", "converters", "rich", "PIL", "psutil", "torch", "onnx", "onnxruntime"}
    assert not loaded & heavy
    # Nor what only one command needs.
    assert not {name for name in loaded if name.startswith("smp_deploy.")} - {
        "smp_deploy.cli",
        "smp_deploy.cli.app",
        "smp_deploy.cli.entry",
        "smp_deploy.cli.errors",
        "smp_deploy.cli.streams",
    }


def test_two_precisions_of_an_engine_are_refused(cli: Cli) -> None:
    result = cli("build-engine", "b", "--fp16", "--int8")
    assert (result.returncode, result.stderr) == (
        2,
        "smp-deploy: an engine has one precision; received --fp16 --int8\n",
    )


def test_an_engine_is_built_by_every_backend_that_runs_engines() -> None:
    (flavour,) = (option for option in command_named("build-engine").params if option.name == "flavour")
    assert list(flavour.type.choices) == [backend.name for backend in BACKENDS if backend.needs_engines]


def test_the_console_script_is_the_programs_way_in() -> None:
    script = "import sys; from smp_deploy.cli.entry import main; sys.argv = ['x', '--version']; main()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"smp-deploy, version \S+\n", result.stdout)
