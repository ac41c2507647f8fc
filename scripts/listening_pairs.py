"""Make original/decoded pairs to listen to: short mono FLAC files, which browsers play.

    python scripts/listening_pairs.py drone.flac birds.ogg@1.5 --output docs/listen

takes 4 s of each file, from its beginning or from the second after the @, and writes `drone-original.flac` (16-bit,
44.1 kHz) and `drone-decoded.flac`, which is that clip compressed with the bundled model and decompressed again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import soxr

import dac_codec
from dac_codec.audio import Audio

SAMPLE_RATE = 44100


def read_clip(source: str, seconds: float) -> Audio:
    """A mono clip [1, T] at `SAMPLE_RATE` of a file that is named as PATH or PATH@START."""
    path, _, start = source.partition("@")
    with soundfile.SoundFile(path) as file:
        file.seek(int(float(start or 0) * file.samplerate))
        samples = file.read(int(seconds * file.samplerate), dtype="float32", always_2d=True).mean(axis=1)
        clip = soxr.resample(samples, file.samplerate, SAMPLE_RATE)
    return np.asarray(np.clip(clip, -1.0, 1.0), dtype=np.float32)[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="FILE[@START]", help="sound files, and where their clips start")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a clip; default: 4")
    parser.add_argument(
        "--model", default="dac-mini-44khz", help="a name, folder or .pth file; default: the bundled one"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/listen"), help="folder; default: docs/listen")
    arguments = parser.parse_args()

    arguments.output.mkdir(parents=True, exist_ok=True)
    model = dac_codec.prepare(dac_codec.DAC.from_pretrained(arguments.model), exact=True)
    for source in arguments.sources:
        clip = read_clip(source, arguments.seconds)
        compressed = dac_codec.compress((clip, SAMPLE_RATE), model)
        decoded, _ = dac_codec.decompress(compressed, model)
        name = Path(source.partition("@")[0]).stem.replace("_", "-")
        for kind, samples in (("original", clip), ("decoded", decoded.numpy())):
            soundfile.write(arguments.output / f"{name}-{kind}.flac", samples[0], SAMPLE_RATE, subtype="PCM_16")
        print(f"{name}: {compressed.bitrate / 1000:.2f} kbit/s")


if __name__ == "__main__":
    main()
