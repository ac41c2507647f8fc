"""The command line `dac-codec`: its commands, and how they end.

Exit codes: 0 success, 1 a file or the whole run failed, 2 wrong usage, 130 interrupted (143 by SIGTERM, 129 by SIGHUP),
141 the reader of the output closed it. Standard output carries data only; messages go to standard error. Slow imports
are made by the commands that need them, so `--help` is instant.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Any

import click

from dac_codec.cli import commands, corpus, files, options
from dac_codec.cli.running import one_line, show_traceback, shown_warnings, stopped_by_signals
from dac_codec.common import native
from dac_codec.common.errors import DacError, is_out_of_memory

_INTERRUPTED = 130  # 128 + SIGINT
_PIPE_CLOSED = 141  # 128 + SIGPIPE


class _Commands(click.Group):
    """Commands in the order of their definition. An error is reported in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with stopped_by_signals() as signals, shown_warnings(), native.apart():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            raise click.exceptions.Exit(128 + signals[0] if signals else _INTERRUPTED) from None
        except BrokenPipeError:
            drop_output()
            raise click.exceptions.Exit(_PIPE_CLOSED) from None
        except (DacError, OSError, MemoryError, ImportError, RuntimeError) as error:
            is_memory = is_out_of_memory(error)
            if isinstance(error, RuntimeError) and not is_memory:
                raise
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO):
                drop_output()
            show_traceback(error)
            raise click.ClickException(one_line(MemoryError() if is_memory else error)) from error


def drop_output() -> None:
    """Write what is left for standard output nowhere; else Python would report at exit that it can't be written."""
    with suppress(OSError):  # no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@options.verbose
@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="dac_codec", prog_name="dac-codec")
def main() -> None:
    """Compress audio to a few kilobits per second with a neural codec, and decompress it."""


for _command in (
    commands.compress,
    commands.decompress,
    files.info,
    files.models,
    files.convert,
    files.convert_model,
    files.export,
    files.web,
    corpus.tokenize,
    corpus.detokenize,
    commands.demo,
    commands.evaluate,
    commands.train,
    files.refit,
):
    main.add_command(_command)
    if _command is not commands.train:  # which passes its options on
        options.verbose(_command)
