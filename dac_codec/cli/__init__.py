"""The command line: `dac-codec`, or `python -m dac_codec`."""
