"""The command `dac-codec web`."""

from __future__ import annotations

from pathlib import Path

import click

from dac_codec.cli import options, running
from dac_codec.cli.jobs import display_path
from dac_codec.common.errors import DacError

_PATH = click.Path(file_okay=False, path_type=Path)


@click.command()
@options.folder("site", "Folder for the page.")
@options.model
@click.option(
    "--graphs",
    metavar="FOLDER",
    type=_PATH,
    help="A folder with the model as ONNX graphs, as `dac-codec export` writes it. [default: they are made]",
)
@click.option(
    "--runtime", metavar="FOLDER", type=_PATH, help="A folder with the npm package onnxruntime-web. [default: from npm]"
)
@click.option("--serve", is_flag=True, help="Serve the page on this machine, until Ctrl-C.")
@click.option(
    "--port", metavar="N", type=click.IntRange(0, 65535), default=8000, help="Port of --serve; 0 for any free one."
)
@options.force
@options.quiet
def web(
    output: Path,
    model: str | None,
    graphs: Path | None,
    runtime: Path | None,
    serve: bool,
    port: int,
    force: bool,
    quiet: bool,
) -> None:
    """Make a web page that compresses and decompresses in the browser.

    The folder holds everything that the page loads; any static web server serves it. The page sends nothing anywhere.
    """
    if output.exists() and any(output.iterdir()) and not force:
        raise DacError(f"{display_path(output)} is not empty; use --force to replace files in it")
    running.check_memory()
    from dac_codec import pretrained
    from dac_codec.interop.web import server, write_site

    loaded = pretrained.load(model or pretrained.DEFAULT_MODEL, progress=not quiet)
    write_site(loaded, output, graphs, runtime)
    if not quiet:
        n_bytes = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        click.echo(f"{display_path(output)} holds the page, {n_bytes / 1e6:.0f} MB", err=True)
    if serve:
        with server(output, port) as running_server:
            click.echo(f"http://127.0.0.1:{running_server.server_address[1]}/", err=True)
            running_server.serve_forever()
