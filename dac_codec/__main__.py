"""`python -m dac_codec`: the command line."""

from dac_codec.cli.main import main

if __name__ == "__main__":
    main(prog_name="dac-codec")
