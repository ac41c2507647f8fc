"""Make the bundled model from random weights: all of its stages in one command.

    python scripts/bundled_model.py data/manifest.csv -o runs/bundled trainer.accelerator=cuda trainer.devices=1

The model, with its context model, is in the folder "decoder/model". Settings at the end are those of `dac-codec train`,
and hold in each of the three stages that train. The same command continues where it was stopped. With `--trial`, each
stage takes a few steps, to see that it runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dac_codec.common.errors import DacError
from dac_codec.common.scripts import exit_status
from dac_codec.common.signals import handled_signals

TRIAL = ("trainer.max_steps=2", "trainer.batch_size=2", "trainer.compile=false", "trainer.workers=0")


def stages(sounds: Path, folder: Path, settings: list[str], trial: bool) -> Iterator[tuple[Path, list[str]]]:
    """What each stage makes, and its command."""

    def train(experiment: str, start: Path | None) -> tuple[Path, list[str]]:
        run = folder / experiment.removeprefix("mini-")
        own = [f"experiment={experiment}", f"data.sounds={sounds}", f"trainer.folder={run}"]
        own += [f"trainer.init_from={start}"] * (start is not None) + list(TRIAL) * trial
        return run / "model", ["dac_codec.training", *own, *settings]

    minutes = ["--minutes", "0.5"] * trial
    yield (first := train("mini", None))
    yield (second := train("mini-gpu", first[0]))
    refitted = folder / "refitted"
    yield refitted, ["dac_codec", "refit", str(second[0]), "--sounds", str(sounds), "-o", str(refitted), *minutes]
    yield (last := train("mini-decoder", refitted))
    context = last[0] / "context.safetensors"
    few = [*minutes, "--steps", "2"] * trial
    yield context, ["dac_codec.training.context", str(last[0]), "--sounds", str(sounds), "-o", str(context), *few]


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
    parser.add_argument("--trial", action="store_true", help="a few steps of each stage")
    options = parser.parse_intermixed_args()  # settings follow options
    for made, command in stages(options.sounds, options.output, options.settings, options.trial):
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
