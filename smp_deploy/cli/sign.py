"""``smp-deploy sign``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engines.bundle.bundle import Bundle
from engines.trust import Role, sign_bundle
from smp_deploy.cli.console import print_json, print_line, print_table
from smp_deploy.cli.keys import PASS_PHRASE, with_pass_phrase
from smp_deploy.cli.options import BundleArgument, JsonOption
from smp_deploy.cli.summaries import tuning_summaries


def sign_command(
    bundle: BundleArgument,
    key: Annotated[
        Path,
        typer.Option(
            "--key", metavar="PEM", help=f"Private key of P-256, P-384 or P-521; its pass phrase is in {PASS_PHRASE}."
        ),
    ],
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="PEM", help="Certificate of the key's owner.")
    ] = None,
    certificate_chain: Annotated[
        list[Path] | None,
        typer.Option(
            "--certificate-chain",
            metavar="PEM",
            help="Certificates that lead from the owner's to the root; may be given several times.",
        ),
    ] = None,
    on_target: Annotated[
        bool,
        typer.Option("--target", help="Sign what build-engine and tune added where the bundle runs: target.json."),
    ] = False,
    trust: Annotated[
        Path | None,
        typer.Option(
            "--trust", metavar="POLICY", help="A file that says who may sign what: it must take the signature."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the signature of another key, too, or what cannot be read as one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Sign BUNDLE: its manifest and every file that the manifest lists, after verifying them.

    The signature is model.sig in the bundle, in the format of OpenSSF Model Signing; one of the same key is replaced.
    What `build-engine` and `tune` add is signed on its own, by a key of the target: target.sig. For that the policy
    must name who signed the export. What is signed is listed: whoever signs says of every engine that it was built
    here.

    \b
    smp-deploy sign BUNDLE --key release.pem
    smp-deploy sign BUNDLE --key release.pem --certificate release.crt --certificate-chain authority.crt
    smp-deploy sign BUNDLE --target --key vehicle.pem --trust policy.json
    """
    opened = Bundle.open(bundle)
    role = Role.TARGET if on_target else Role.BUNDLE

    def signed(pass_phrase: str | None) -> Path:
        return sign_bundle(
            opened,
            key,
            certificate=certificate,
            certificate_chain=certificate_chain or (),
            pass_phrase=pass_phrase,
            role=role,
            trust=trust,
            replace=force,
        )

    path = with_pass_phrase(key, signed)
    if as_json:
        document: dict[str, object] = {"bundle": str(bundle), "signature": str(path)}
        print_json(document | ({"files": opened.target_digests} if on_target else {}))
        return
    if on_target:
        _show_added(opened)
    print_line(f"wrote {path}")


def _show_added(bundle: Bundle) -> None:
    if bundle.engines:
        columns = ("signed engine", "backend", "precision", "schedule", "SHA-256")
        rows = [
            (e.engine, e.backend, e.precision.value, str(e.schedule), bundle.target.files[e.engine].sha256[:16])
            for e in bundle.engines
        ]
        print_table(columns, rows)
    if bundle.tunings:
        columns = ("signed tuning, on", "backend", "precision", "fastest", "ms a frame")
        print_table(columns, tuning_summaries(bundle))
