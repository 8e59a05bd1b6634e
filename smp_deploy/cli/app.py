"""``smp-deploy``: the list of commands, each loaded when it is run or completed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

PROGRAM = "smp-deploy"

_INTERRUPTED = 130
"""What typer makes of an interruption; no command of ours returns it."""


@dataclass(frozen=True)
class Entry:
    """Where a command is, and what the list says of it."""

    module: str
    function: str
    short_help: str


COMMANDS = {
    name: Entry(f"smp_deploy.cli.{module}", f"{module}_command", short_help)
    for name, module, short_help in (
        ("export", "export", "Write the bundle of a network."),
        ("densify", "densify", "Show what a strided network becomes when it is made dense."),
        ("validate", "validate", "Prove numeric parity, hop by hop."),
        ("debug-precision", "debug_precision", "Find the modules that a lower precision hurts."),
        ("report", "report", "Make a page of the last validation."),
        ("sign", "sign", "Sign a bundle: its manifest and every file that it lists."),
        ("verify", "verify", "Say who signed a bundle, and whether it is as it was signed."),
        ("plan", "plan", "Show the schedules of a bundle, and what fits a memory budget."),
        ("pack", "pack", "Write a schedule of a bundle as one ONNX file for any runtime."),
        ("build-engine", "build_engine", "Build a TensorRT engine on this machine."),
        ("tune", "tune", "Measure the schedules and record the fastest."),
        ("run", "run", "Label images with a bundle."),
        ("bench", "bench", "Measure latency, throughput and memory."),
        ("evaluate", "evaluate", "Judge SOURCE, a checkpoint of `train` or a bundle, by labelled frames at full size."),
        ("train", "train", "Train SMP-X, FCN32s or FCN8s by shrink-expand steps."),
        ("inspect", "inspect", "Show what a bundle holds."),
        ("flops", "flops", "Count the operations of networks."),
        ("doctor", "doctor", "Say what this machine can do."),
        ("demo", "demo", "Do it all once, on a real road frame."),
    )
}
"""The commands in the order of the workflow."""


class Command(TyperCommand):
    """A command whose usage names arguments as its text does, and which takes nothing silently.

    An option that has one value is given once: of two values the last one would count, without a word.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left. Raises ``typer.BadParameter`` for an option with two values."""
        given = Counter(param.name for param in self.make_parser(ctx).parse_args(args=list(args))[2])
        for param in self.get_params(ctx):
            single = isinstance(param, TyperOption) and not (param.multiple or param.is_flag or param.count)
            if single and given[param.name] > 1:
                raise typer.BadParameter("it is given more than once, and has one value.", ctx, param)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        from smp_deploy.cli.console import results_alone

        with results_alone():
            return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words after the command's name: ``[OPTIONS] BUNDLE``."""
        # typer puts braces around an argument that is required.
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


class LazyGroup(TyperGroup):
    """A group of :data:`COMMANDS` that lists their names and short helps without importing them."""

    def __init__(self, **settings: Any) -> None:
        listed = {name: TyperCommand(name, short_help=entry.short_help) for name, entry in COMMANDS.items()}
        super().__init__(**{**settings, "commands": listed})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is to be run or completed: here it is imported."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = command_named(args[0])
        return super().resolve_command(ctx, args)


def command_named(name: str) -> TyperCommand:
    """Import a command of :data:`COMMANDS`."""
    entry = COMMANDS[name]
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=Command, short_help=entry.short_help)(getattr(import_module(entry.module), entry.function))
    command = get_command(alone)
    assert isinstance(command, TyperCommand)
    return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    # Plain text: what is on a terminal can be searched, and rich need not be imported.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 good, 1 a check failed, 2 bad input or usage, 3 the environment lacks something, 70 defect.",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from smp_deploy import __version__
        from smp_deploy.cli.console import print_line

        print_line(f"{PROGRAM}, version {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_say_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Take a Split-Merge Pooling network from PyTorch to an embedded GPU, and prove that nothing changed."""


def invoke(words: Sequence[str] | None = None) -> Any:
    """Run the command that the words name, by default those of this process, and give what it returns.

    Raises ``typer.TyperException`` for words that name none, ``KeyboardInterrupt``, and what the command raises.
    """
    outcome = get_command(app)(words, prog_name=PROGRAM, standalone_mode=False)
    if outcome == _INTERRUPTED:
        raise KeyboardInterrupt
    return outcome
