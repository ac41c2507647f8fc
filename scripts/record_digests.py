"""Record the SHA-256 of the published weights: `python scripts/record_digests.py`, once, with network access.

Downloads each of the four files to a temporary folder (about 1.2 GB in all), checks that it holds the expected model,
and writes the digests to dac_codec/pretrained/sha256.json. From then on, any other file is refused. Compare the printed
digests with those that you get over another connection before you commit them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

from dac_codec import pretrained
from dac_codec.common.files import write_file
from dac_codec.common.scripts import exit_status
from dac_codec.pretrained import models
from dac_codec.pretrained.download import check_digest

TARGET = Path(models.__file__).with_name(models.DIGESTS_FILE)


def main() -> None:
    """Record the digests."""
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DAC_CODEC_CACHE"] = folder
        for name, place in models.PUBLISHED.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that they are not verified
                pretrained.load(name, progress=True)
            digests[name] = check_digest(Path(folder, place.rpartition("/")[2]), None)
            print(f"{digests[name]}  {place}", flush=True)
    write_file(TARGET, json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(exit_status(main))
