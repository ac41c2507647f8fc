"""Train a codec: the same as `python -m dac_codec.training`."""

from dac_codec.training.__main__ import main

if __name__ == "__main__":
    main()
