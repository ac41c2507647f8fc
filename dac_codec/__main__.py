"""`python -m dac_codec` and the command `dac-codec`: the command line."""

from __future__ import annotations

import signal


def run() -> None:
    """Run the command line, and exit."""
    # Until it handles signals itself, Ctrl-C ends the process without a traceback from the middle of an import.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dac_codec.cli.main import main

    main(prog_name="dac-codec")


if __name__ == "__main__":
    run()
