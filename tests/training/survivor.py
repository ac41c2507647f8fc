"""Start a training run and kill it at random moments, several times; then let it end.

    python -m tests.training.survivor CONFIG.json KILLS SEED

Each start is a process that gets SIGKILL: every fourth while it starts, the others up to 30 ms after a save.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

# Imported here, as otherwise every process imports them in its first step.
import librosa.filters  # noqa: F401
import torch
import torch._dynamo
import torchaudio.functional  # noqa: F401

from dac_codec.training import checkpoint
from dac_codec.training.checkpoint import Checkpoints
from dac_codec.training.config import TrainConfig
from dac_codec.training.trainer import Trainer


def fork(config: TrainConfig) -> int:
    """Start a process that trains. Returns its id."""
    child = os.fork()
    if child == 0:
        try:
            Trainer(config).run()
        finally:
            os._exit(int(sys.exc_info()[0] is not None))
    return child


def newest(checkpoints: Checkpoints) -> int:
    """The last saved step."""
    return max([step for step, _ in checkpoints.steps()], default=0)


def main() -> int:
    """Kill and restart."""
    torch.set_num_threads(1)
    config = TrainConfig.parse(json.loads(Path(sys.argv[1]).read_text()))
    chance = random.Random(int(sys.argv[3]))
    checkpoints = Checkpoints(Path(config.trainer.folder) / "checkpoints", config.trainer.keep_last)
    survived = [0]
    while len(survived) <= int(sys.argv[2]):
        child = fork(config)
        if len(survived) % 4 == 0:
            time.sleep(chance.uniform(0.0, 0.2))
        else:
            while newest(checkpoints) == survived[-1] and os.waitpid(child, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            print(f"the run ended after {len(survived)} kills", file=sys.stderr)
            return 1
        survived.append(newest(checkpoints))
        for step, path in checkpoints.steps():
            assert checkpoint.load(path)["step"] == step
    _, status = os.waitpid(fork(config), 0)
    print(json.dumps(survived[1:]))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
