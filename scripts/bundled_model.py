"""Make a bundled model: all of its stages in one command.

    python scripts/bundled_model.py data/manifest.csv -o runs/bundled trainer.accelerator=cuda trainer.devices=1
    python scripts/bundled_model.py data/manifest.csv -o runs/speech --speech runs/bundled/decoder/model

The first one is made from random weights, the one for speech from the weights of the first. The model, with its
context model, is in the folder "decoder/model" or "refitted". Settings at the end are those of `dac-codec
train`, and hold in each stage that trains. The same command continues where it was stopped. With `--trial`, each stage
takes a few steps, to see that it runs.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dac_codec.common.errors import DacError
from dac_codec.common.scripts import exit_status
from dac_codec.common.signals import handled_signals

TRIAL = ("trainer.max_steps=2", "trainer.batch_size=2", "trainer.compile=false", "trainer.workers=0")

Stage = tuple[Path, list[str]]


def stages(sounds: Path, folder: Path, settings: list[str], trial: bool, start: str | None = None) -> Iterator[Stage]:
    """What each stage makes, and its command; `start` is the model that the one for speech is made from."""
    minutes = ["--minutes", "0.5"] if trial else []

    def train(experiment: str, start: Path | None) -> Stage:
        run = folder / experiment.removeprefix("mini-")
        own = [f"experiment={experiment}", f"data.sounds={sounds}", f"trainer.folder={run}"]
        if start is not None:
            own.append(f"trainer.init_from={start}")
        if trial:
            own += TRIAL
        return run / "model", ["dac_codec.training", *own, *settings]

    def refit(model: Path | str, name: str, sounds: Path, *options: str) -> Stage:
        made = folder / name
        return made, ["dac_codec", "refit", str(model), "--sounds", str(sounds), "-o", str(made), *options, *minutes]

    fitted_to = sounds
    if start is None:
        yield (first := train("mini", None))
        yield (second := train("mini-gpu", first[0]))
        yield (refitted := refit(second[0], "refitted", sounds))
        yield (last := train("mini-decoder", refitted[0]))
    else:
        fitted_to = speech_of(sounds, folder / "speech.csv")
        yield (other := refit(start, "start", fitted_to, "--sample-rate", "24000", "--codebooks", "18"))
        yield (first := train("speech", other[0]))
        yield (last := refit(first[0], "refitted", fitted_to))
    context = last[0] / "context.safetensors"
    few = [*minutes, "--steps", "2"] if trial else []
    yield context, ["dac_codec.training.context", str(last[0]), "--sounds", str(fitted_to), "-o", str(context), *few]


def speech_of(sounds: Path, target: Path) -> Path:
    """A manifest of the speech of a manifest, or the folder itself."""
    if sounds.is_dir():
        return sounds
    with sounds.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        speech = [row for row in rows if row["domain"] == "speech"]
    for row in speech:
        row["path"] = str(sounds.parent.absolute() / row["path"])
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows.fieldnames or ())
        writer.writeheader()
        writer.writerows(speech)
    return target


def status_of(command: list[str]) -> int:
    """Exit status of a module, which signals are passed on to: a run of training then saves its state."""
    process = subprocess.Popen([sys.executable, "-m", *command])
    with handled_signals(process.send_signal, "SIGINT", "SIGTERM", "SIGHUP"):
        status = process.wait()
    return status if status >= 0 else 128 - status


def main() -> None:
    """Run the stages that are not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sounds", type=Path, help="a manifest, or a folder of sounds")
    parser.add_argument("settings", nargs="*", help="of training: trainer.accelerator=cuda, for example")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of all stages")
    parser.add_argument("--speech", metavar="MODEL", help="make the model for speech, from the weights of MODEL")
    parser.add_argument("--trial", action="store_true", help="a few steps of each stage")
    options = parser.parse_intermixed_args()  # settings follow options
    for made, command in stages(options.sounds, options.output, options.settings, options.trial, options.speech):
        if made.exists():
            continue
        print("python -m", *command, flush=True)
        status = status_of(command)
        if status > 128:
            sys.exit(status)
        if status:
            raise DacError(f"{made} was not made")


if __name__ == "__main__":
    sys.exit(exit_status(main))
