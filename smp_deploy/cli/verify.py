"""``smp-deploy verify``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engines.errors import CheckFailed, UntrustedBundle
from engines.trust import verify_bundle
from smp_deploy.cli.console import print_json, print_table
from smp_deploy.cli.options import BundleArgument, JsonOption


def verify_command(
    bundle: BundleArgument,
    key: Annotated[Path | None, typer.Option("--key", metavar="PEM", help="The signer's public key.")] = None,
    certificate_chain: Annotated[
        list[Path] | None,
        typer.Option(
            "--certificate-chain",
            metavar="PEM",
            help="Root certificates that are trusted, and others that lead to them; may be given several times.",
        ),
    ] = None,
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="POLICY", help="A file that says who may sign what.")
    ] = None,
    remember: Annotated[
        bool, typer.Option("--remember", help="With --trust: from now on refuse versions older than this one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify that BUNDLE is, byte for byte, what somebody signed who may, and say who.

    Certificates must be valid today; whether they were revoked is not checked. Exit code 1 says that the signature
    does not hold, that somebody else made it, or that the version is an older one; 2 that there is no signature, or
    that a file is damaged.

    \b
    smp-deploy verify BUNDLE --key release.pub
    smp-deploy verify BUNDLE --certificate-chain root.crt
    smp-deploy verify BUNDLE --trust policy.json --remember
    """
    try:
        signer = verify_bundle(
            bundle, key=key, certificate_chain=certificate_chain or (), trust=trust, remember=remember
        )
    except UntrustedBundle as error:
        # The check was asked for, it ran, and this is what it found.
        raise CheckFailed(str(error)) from error
    if as_json:
        print_json({"bundle": str(bundle), "signer": asdict(signer)})
        return
    rows = [("signed by", signer.name), ("SHA-256 of the key", signer.key_sha256)]
    rows += [] if signer.certificate is None else [("certificate", signer.certificate)]
    print_table(("verified", str(bundle)), rows)
