"""``smp-deploy sign``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engines.trust import Role, sign_bundle
from smp_deploy.cli.console import print_json, print_line
from smp_deploy.cli.keys import PASS_PHRASE, with_pass_phrase
from smp_deploy.cli.options import BundleArgument, JsonOption


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
    as_json: JsonOption = False,
) -> None:
    """Sign BUNDLE: its manifest and every file that the manifest lists, after verifying them.

    The signature is model.sig in the bundle, in the format of OpenSSF Model Signing; one that is there is replaced.
    What `build-engine` and `tune` add is signed on its own, by a key of the target: target.sig.

    \b
    smp-deploy sign BUNDLE --key release.pem
    smp-deploy sign BUNDLE --key release.pem --certificate release.crt --certificate-chain authority.crt
    smp-deploy sign BUNDLE --target --key vehicle.pem
    """

    def signed(pass_phrase: str | None) -> Path:
        chain = certificate_chain or ()
        role = Role.TARGET if on_target else Role.BUNDLE
        return sign_bundle(
            bundle, key, certificate=certificate, certificate_chain=chain, pass_phrase=pass_phrase, role=role
        )

    path = with_pass_phrase(key, signed)
    if as_json:
        print_json({"bundle": str(bundle), "signature": str(path)})
    else:
        print_line(f"wrote {path}")
