"""Print how long streaming makes one wait, for each preset as published and with causal layers, as a Markdown table.

    python scripts/benchmarks/latency.py

A frame's codes come when the encoder's look-ahead of audio beyond the frame's end has been pushed. The decoder's
output stays behind its frames by its own look-ahead. From microphone to loudspeaker, with computing in no time, a sound
is late by both and a frame, as the encoder gives nothing before a frame is full.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from dac_codec.common.scripts import exit_status
from dac_codec.inference import decoder_look_ahead, encoder_look_ahead
from dac_codec.model import DAC, PRESETS, DACConfig
from dac_codec.pretrained import DEFAULT_MODEL


def row(name: str, config: DACConfig) -> str:
    """A model's line of the table."""
    # Latency depends on the strides and on nothing that makes a network large.
    small = replace(
        config, encoder_dim=1, latent_dim=1, decoder_dim=2 ** len(config.decoder_rates), codebook_size=2, n_codebooks=1
    )
    model = DAC(small)
    encoder, decoder, hop = encoder_look_ahead(model), decoder_look_ahead(model), model.hop_length
    cells = (f"{samples} ({1000 * samples / config.sample_rate:.1f} ms)" for samples in (hop, encoder, decoder))
    return f"| {name} | {' | '.join(cells)} | {1000 * (hop + encoder + decoder) / config.sample_rate:.1f} ms |"


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    configs = {**PRESETS, DEFAULT_MODEL: DAC.from_pretrained(DEFAULT_MODEL).config}
    print("| model | frame | encoder look-ahead | decoder look-ahead | in all |")
    print("|---|---:|---:|---:|---:|")
    for name, config in configs.items():
        print(row(name, config))
    for name, config in configs.items():
        print(row(f"{name}, causal", replace(config, causal=True)))


if __name__ == "__main__":
    sys.exit(exit_status(main))
