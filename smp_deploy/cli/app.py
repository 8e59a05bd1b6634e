"""``smp-deploy``: the commands."""

from __future__ import annotations

import click

from smp_deploy import __version__
from smp_deploy.cli.bench import bench_command
from smp_deploy.cli.build_engine import build_engine_command
from smp_deploy.cli.debug_precision import debug_precision_command
from smp_deploy.cli.demo import demo_command
from smp_deploy.cli.doctor import doctor_command
from smp_deploy.cli.evaluate import evaluate_command
from smp_deploy.cli.export import export_command
from smp_deploy.cli.flops import flops_command
from smp_deploy.cli.inspect import inspect_command
from smp_deploy.cli.plan import plan_command
from smp_deploy.cli.report import report_command
from smp_deploy.cli.run import run_command
from smp_deploy.cli.train import train_command
from smp_deploy.cli.tune import tune_command
from smp_deploy.cli.validate import validate_command

COMMANDS = (
    export_command,
    validate_command,
    debug_precision_command,
    report_command,
    plan_command,
    build_engine_command,
    tune_command,
    run_command,
    bench_command,
    evaluate_command,
    train_command,
    inspect_command,
    flops_command,
    doctor_command,
    demo_command,
)


class _OrderedGroup(click.Group):
    """Lists the commands in the order of the workflow, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_OrderedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 good, 1 a check failed, 2 bad input or usage, 3 the environment lacks something.",
)
@click.version_option(__version__, "-V", "--version", prog_name="smp-deploy")
def app() -> None:
    """Take a Split-Merge Pooling network from PyTorch to an embedded GPU, and prove that nothing changed."""


for _command in COMMANDS:
    app.add_command(_command)
