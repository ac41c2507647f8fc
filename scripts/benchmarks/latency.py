"""Print the algorithmic latency of streaming for each preset, as published and with causal layers.

    python scripts/benchmarks/latency.py

The encoder returns the codes of a frame once its look-ahead of audio after the frame has been pushed; the output of the
decoder lags behind its frames by its own look-ahead. The latency from input to output, without the time of computing,
is the sum of both and of one frame, which the encoder has to fill. Nothing is timed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from report import table

from dac_codec.common.scripts import exit_status
from dac_codec.inference import decoder_look_ahead, encoder_look_ahead
from dac_codec.model import DAC, PRESETS, DACConfig
from dac_codec.pretrained.models import DEFAULT_MODEL, SHORT_NAMES


def row(name: str, config: DACConfig) -> list[str]:
    """Return a model's row of the table."""
    # The latency depends on the strides and kernels only, so that a network of few channels suffices.
    small = replace(
        config, encoder_dim=1, latent_dim=1, decoder_dim=2 ** len(config.decoder_rates), codebook_size=2, n_codebooks=1
    )
    model = DAC(small)
    parts = model.hop_length, encoder_look_ahead(model), decoder_look_ahead(model)
    cells = (f"{samples} ({1000 * samples / config.sample_rate:.1f} ms)" for samples in parts)
    return [name, *cells, f"{1000 * sum(parts) / config.sample_rate:.1f} ms"]


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    bundled = {name: DAC.from_pretrained(name).config for name in (DEFAULT_MODEL, *SHORT_NAMES.values())}
    configs = {**PRESETS, **bundled}
    causal = {f"{name}, causal": replace(config, causal=True) for name, config in configs.items()}
    rows = [row(name, config) for name, config in (configs | causal).items()]
    print(table(["model", "frame", "encoder look-ahead", "decoder look-ahead", "total"], rows))


if __name__ == "__main__":
    sys.exit(exit_status(main))
