"""`python -m dac_codec` and the command `dac-codec`: the command line."""

from __future__ import annotations

import signal
import sys
from io import TextIOWrapper


def run() -> None:
    """Run the command line, and exit."""
    # Until it handles signals itself, Ctrl-C ends the process without a traceback from the middle of an import.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a file's name may have characters that the encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        from dac_codec.cli.main import drop_output, main
    except (ImportError, OSError, MemoryError) as error:  # such as too few file descriptors
        sys.exit(f"Error: {str(error) or 'not enough memory'}")
    try:
        main(prog_name="dac-codec")
    except OSError as error:  # of --help and --version, whose output can't be written
        drop_output()
        sys.exit(f"Error: {error.strerror or error}")


if __name__ == "__main__":
    run()
