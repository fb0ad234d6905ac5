"""``lastrun image``: the image for containers built, and one looked into; ``runner.launch.docker.image`` does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import JsonOption, QuietOption

image_app = typer.Typer(help="Build the image for containers, or look into one", no_args_is_help=True, rich_markup_mode=None)


@image_app.command()
def build(
    tag: Annotated[str | None, typer.Option("--tag", metavar="NAME", help="default: lastrun:VERSION")] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="IMAGE", help="default: a CUDA runtime image")] = None,
    torch: Annotated[
        str | None, typer.Option("--torch", metavar="SPEC", help="another build, such as torch==2.7.1+cu126")
    ] = None,
    wheels: Annotated[Path | None, typer.Option("--wheels", metavar="DIR", help="take packages from there alone")] = None,
    ca_bundle: Annotated[
        Path | None, typer.Option("--ca-bundle", metavar="FILE", help="certificates for pip; default: PIP_CERT and the like")
    ] = None,
    network: Annotated[str | None, typer.Option("--network", metavar="NAME", help="network of the build, such as host")] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Build the image of this clone."""
    from runner.launch.docker import image
    from runner.view.console import print_json, show
    from runner.view.image import Building

    with Building(show=not json) as building:
        facts = image.build(building.say, tag=tag, base=base, torch=torch, wheels=wheels, ca_bundle=ca_bundle, network=network)
    if json:
        print_json("image build", facts)
    else:
        show(f"{facts['image']}: {facts['id']}, {facts['size'] / 1e9:.2f} GB")


@image_app.command()
def check(
    image: Annotated[str | None, typer.Argument(metavar="[IMAGE]", help="default: lastrun:VERSION")] = None,
    json: JsonOption = False,
) -> None:
    """Print what is in an image, and whether it matches this code and this host."""
    from runner.errors import Exit
    from runner.launch.docker.look import check as look
    from runner.view.console import JSON_VERSION, print_json
    from runner.view.image import print_image

    facts = look(image)
    if json:
        print_json("image check", {**facts, "version": JSON_VERSION, "image_version": facts.get("version")})
    else:
        print_image(facts)
    raise typer.Exit(Exit.NO_ENGINE if facts["problems"] else Exit.DONE)


def probe(
    torch: Annotated[bool, typer.Option("--torch", help="try torch and the GPUs, too")] = False,
) -> None:
    """Say what is installed here, as JSON; run inside an image by who wants to know."""
    from json import dumps

    from runner.launch.docker.look import probe as look
    from runner.view.console import show

    show(dumps(look(torch)))
