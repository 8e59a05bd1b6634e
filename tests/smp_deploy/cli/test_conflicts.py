"""Options that contradict each other, or mean nothing here, are errors and no silences."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from smp_deploy.cli.app import COMMANDS, command_named
from tests.conftest import Cli

SINGLE = [
    (name, param.opts[-1], param.nargs)
    for name in COMMANDS
    for param in command_named(name).params
    if param.param_type_name == "option"
    and not getattr(param, "multiple", False)
    and not getattr(param, "is_flag", False)
]
"""Every option of every command that has one value: the command, its name, and of how many words the value is."""


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_of_one_value_is_given_once(command: str) -> None:
    for name, option, words in SINGLE:
        if name == command:
            with pytest.raises(typer.BadParameter, match="it is given more than once, and has one value") as caught:
                command_named(name).make_context(name, [option, *["1"] * words] * 2)
            assert option in caught.value.param.opts  # type: ignore[union-attr]


def test_that_is_said_with_the_option_s_name(cli: Cli) -> None:
    result = cli("doctor", "--json", "--json")
    assert result.returncode == 0
    result = cli("flops", "--size", "8x8", "--size", "8x8")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("Error: Invalid value for '--size'")
    assert "it is given more than once, and has one value." in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("build-engine", "BUNDLE", "--int8", "--fp16"), "an engine has one precision; received --fp16 --int8"),
        (
            ("flops", "--table5", "--size", "64x64"),
            "--size is for --arch; the networks of --table5 are",
        ),
        (("flops", "--table5", "--width", "8"), "--width is for --arch; "),
        (("flops", "--table5", "--classes", "8"), "--classes is for --arch; "),
        (
            ("inspect", "BUNDLE", "--compare", "BUNDLE", "--classes"),
            "--compare shows the differences of engines and",
        ),
        (("inspect", "BUNDLE", "--sbom", "--json"), "--sbom and --attestations each print a document of their own"),
        (("doctor", "--sbom", "--json"), "--sbom and --json each print a document of their own; give one"),
        (
            ("export", "--model", "a:b", "--backbone-only", "--size", "8x8", "-o", "OUT"),
            "--backbone-only says what of a CHECKPOINT is taken; name one",
        ),
        (
            ("export", "--model", "a:b", "--arch", "smp-resnet18", "--size", "8x8", "-o", "OUT"),
            "name the network, either with --arch or with --model",
        ),
        (
            ("validate", "BUNDLE", "--dataset", "scenes", "--root", "OUT"),
            "scenes are generated and read from no directory; leave --root out",
        ),
        (("validate", "BUNDLE", "--precision", "fp16"), "--precision goes with --backend; without it every trunk is"),
        (("validate", "BUNDLE", "--backend", "onnxruntime", "--images", "OUT"), "--images is not for --backend"),
        (("evaluate", "IMAGE", "--dataset", "scenes", "--trust", "OUT"), "--trust is for a bundle; "),
        (("evaluate", "IMAGE", "--dataset", "scenes", "--sub-batch", "2"), "--sub-batch is for a bundle; "),
        (("evaluate", "BUNDLE", "--dataset", "scenes", "--threads", "2"), "--threads is for a checkpoint; "),
        (
            ("run", "BUNDLE", "IMAGE", "-o", "OUT", "--memory", "1GiB", "--levels", "2"),
            "--memory chooses the schedule; ",
        ),
        (("bench", "BUNDLE", "--memory", "1GiB", "--sub-batch", "2"), "--memory chooses the schedule; "),
    ],
)
def test_options_that_do_not_go_together(
    cli: Cli, bundle: Path, image: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    places = {"BUNDLE": str(bundle), "IMAGE": str(image), "OUT": str(tmp_path / "out")}
    result = cli(*(places.get(word, word) for word in words))
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr.splitlines()[-1]
