"""Options that several commands share, and the parsers of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.decorators import FC


class _Path(click.Path):
    """A path that is not empty."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; check that shell variables are set", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path()
"""Type of a path."""

FOLDER = _Path(file_okay=False, path_type=Path)
"""Type of an option for a folder."""

inputs: Callable[[FC], FC] = click.argument("inputs", metavar="IN...", nargs=-1, required=True, type=PATH)
model: Callable[[FC], FC] = click.option(
    "--model",
    metavar="MODEL",
    help="A name (see `dac-codec models`), a folder with a saved model, also of transformers, a .pth file, or "
    "OWNER/NAME on the Hugging Face Hub.",
)
download: Callable[[FC], FC] = click.option(
    "--download",
    is_flag=True,
    help="Download the weights that a file names, about 300 MB, without asking; otherwise only a terminal is asked.",
)


def device_name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Check the name of a device."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is not one of auto, cpu, cuda, cuda:N, mps", ctx, param)
    return value


device: Callable[[FC], FC] = click.option(
    "--device",
    metavar="DEVICE",
    callback=device_name,
    default="auto",
    help="Where the network runs: auto (a GPU if there is one), cpu, cuda, cuda:1 (the second GPU) or mps.",
)
fast: Callable[[FC], FC] = click.option(
    "--fast",
    is_flag=True,
    help="Compute in bfloat16 (TensorFloat-32 on a GPU) where that is faster: close to the exact result, not equal.",
)
effort: Callable[[FC], FC] = click.option(
    "--effort",
    metavar="0..3",
    type=click.IntRange(0, 3),
    help="Search 1, 4, 16 or 64 paths for better codes. 0 and 1 turn band levels off, unless --levels is given. "
    "[default: 1 with band levels; 0 if the number of codes is constant]",
)
quality: Callable[[FC], FC] = click.option(
    "--quality",
    metavar="Q",
    type=float,
    help="Larger is better: each step halves the error that a code must remove. [default: 4.55; 8.5 without levels]",
)
skip_existing: Callable[[FC], FC] = click.option(
    "--skip-existing", is_flag=True, help="Leave out inputs whose output exists, as when a run is continued."
)
force: Callable[[FC], FC] = click.option("--force", is_flag=True, help="Overwrite existing files.")
as_json: Callable[[FC], FC] = click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object with the figures to standard output when done."
)
quiet: Callable[[FC], FC] = click.option("--quiet", is_flag=True, help="Show only warnings and errors.")
verbose: Callable[[FC], FC] = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=lambda ctx, param, value: ctx.meta.update(verbose=value or ctx.meta.get("verbose")),
    help="Show the traceback of each error.",
)


def output(text: str, required: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option -o, with its help text."""
    return click.option("-o", "--output", metavar="OUT", type=PATH, required=required, help=text)


def folder(default: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option -o for a folder, with its default and help text."""
    return click.option("-o", "--output", metavar="FOLDER", type=FOLDER, default=Path(default), help=text)


def raw_audio(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int, str] | None:
    """Parse RATE,CHANNELS,ENCODING, the format of headerless samples."""
    if value is None:
        return None
    rate, _, rest = value.partition(",")
    channels, _, encoding = rest.partition(",")
    if not (rate.isdecimal() and channels.isdecimal()):
        raise click.BadParameter(f"{value!r} is not RATE,CHANNELS,ENCODING, such as 44100,1,s16le", ctx, param)
    raw_encoding(ctx, param, encoding)
    return int(rate), int(channels), encoding


def raw_encoding(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Check the sample format of headerless samples."""
    if value is None:
        return None
    from dac_codec.audio import RAW_ENCODINGS

    if value not in RAW_ENCODINGS:
        raise click.BadParameter(f"{value!r} is not one of {', '.join(RAW_ENCODINGS)}", ctx, param)
    return value


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Parse a time in seconds, m:s or h:m:s."""
    if value is None:
        return None
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is not a time in seconds or h:m:s", ctx, param)
    return sum(60.0**power * float(part) for power, part in enumerate(reversed(value.split(":"))))


def codec_names(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Parse the names of codecs, separated by commas."""
    from dac_codec.evaluation.codecs import NAMES

    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in NAMES:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(NAMES)}", ctx, param)
    return names


def bitrates(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    """Parse bitrates in kbit/s, separated by commas."""
    try:
        parsed = tuple(float(part) for part in value.split(","))
    except ValueError:
        parsed = ()
    if not parsed or not all(0 < bitrate < 10_000 for bitrate in parsed):
        raise click.BadParameter(f"{value!r} is not a list of bitrates in kbit/s, such as 2,4,6,8", ctx, param)
    return parsed
