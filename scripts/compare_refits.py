"""What refitted codebooks and a fine-tuned decoder gain: error of held-out latents, and the decoded sound.

    python scripts/compare_refits.py data/manifest.csv dac-mini-44khz refitted/ tuned/ --minutes 10 --clips 10

prints for each model the signal to noise of the latents by each number of paths, and for each domain the measures of
clips with all codes of every frame, without entropy coding and band levels, by the last number of paths. From the
second model on, differences from the first one follow, with the standard error of their mean. The models share the
encoder. The docs/notes page of the refit has the results.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dac_codec import audio, pretrained
from dac_codec.codec.encoding import TARGET_LUFS
from dac_codec.common.errors import DacError
from dac_codec.common.manifest import read_split
from dac_codec.common.scripts import exit_status
from dac_codec.evaluation.clips import held_out_clips
from dac_codec.evaluation.metrics import SPEECH_HIGH, usable_metrics
from dac_codec.inference import prepare
from dac_codec.training.refit import latents_of, latents_snr

MEASURES = ("mel_distance", "si_sdr", "pesq", "stoi")


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("models", nargs="+", help="names or folders")
    parser.add_argument("--split", default="test", help="of the manifest [test]")
    parser.add_argument("--paths", nargs="+", type=int, default=[1, 16, 4], help="of the searches [1 16 4]")
    parser.add_argument("--minutes", type=float, default=10.0, help="of sound to take latents from [10]")
    parser.add_argument("--clips", type=int, default=10, help="of 5 s to decode, at least, of each domain [10]")
    arguments = parser.parse_args()

    models = {name: pretrained.load(name).float().eval() for name in arguments.models}
    first, *others = models.values()
    encoder = first.encoder.state_dict()
    for model in others:
        if any(not torch.equal(one, encoder[name]) for name, one in model.encoder.state_dict().items()):
            raise DacError("the models have different encoders")
    network, rate = prepare(first), first.sample_rate
    z = latents_of(network, read_split(arguments.manifest, arguments.split), arguments.minutes)
    for name, model in models.items():
        found = (f"{n} paths {latents_snr(model.quantizer, z, n):.2f} dB" for n in arguments.paths)
        print(f"{name}, {len(z)} latents: {', '.join(found)}", flush=True)

    prepared = {name: prepare(model) for name, model in models.items()}
    look_ups = {name: model.look_up(arguments.paths[-1]) for name, model in prepared.items()}
    measures = [one for one in usable_metrics()[0] if one.name in MEASURES]
    rows: dict[tuple[str, str], list[list[float]]] = {}
    clips = held_out_clips(arguments.manifest, rate, arguments.clips, split=arguments.split)
    for clip in (clip for clip in clips if clip.domain != SPEECH_HIGH):
        gain = audio.gain_to(TARGET_LUFS, audio.loudness(clip.waveform, rate), float(np.abs(clip.waveform).max()))
        original = audio.apply_gain(clip.waveform, gain)
        padded = F.pad(torch.from_numpy(original), (0, -original.shape[1] % first.hop_length))
        latents = network.encoder_network.whole(padded[None])
        for name, model in prepared.items():
            codes = look_ups[name](latents, model.n_codebooks)
            decoded = model.decode_codes(codes)[0, :, : original.shape[1]].numpy()
            row = [one.measure(decoded, original, rate) for one in measures if one.applies_to(clip.domain)]
            rows.setdefault((clip.domain, name), []).append(row)
    for domain in dict.fromkeys(domain for domain, _ in rows):
        labels = [one.label for one in measures if one.applies_to(domain)]
        reference = np.array(rows[domain, arguments.models[0]])
        print(f"{domain}, {len(reference)} clips: {', '.join(labels)}")
        for name in models:
            values = np.array(rows[domain, name])
            change, error = values - reference, (values - reference).std(0, ddof=min(1, len(values) - 1))
            pairs = zip(values.mean(0), change.mean(0), error / len(values) ** 0.5, strict=True)
            print(f"  {name:24}", "  ".join(f"{mean:.3f} {gain:+.3f} ({error:.3f})" for mean, gain, error in pairs))


if __name__ == "__main__":
    sys.exit(exit_status(main))
