"""Run the command line in tests, and the files that it reads."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from click.testing import CliRunner, Result

from dac_codec.cli.main import main
from dac_codec.codec import DacFile
from tests.conftest import GOLDEN

LEGACY = GOLDEN / "legacy_44khz_stereo_unchunked.dac"


def interruptible() -> None:
    """Restore signals in a child: in the background or without a terminal, tests may run with some of them ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def noise(n_samples: int, channels: int = 1) -> npt.NDArray[np.float32]:
    """Noise [T, C] from a fixed seed."""
    return 0.1 * np.random.default_rng(0).standard_normal((n_samples, channels)).astype(np.float32)


def write_sound(path: str, n_samples: int = 2000, sample_rate: int = 44100, channels: int = 1) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(n_samples, channels), sample_rate)
    return Path(path)


def write_dac(path: str, file: DacFile) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file.save(path)
    return Path(path)


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    """Run the command line in this process; an exception other than SystemExit would be a traceback."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def process(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """Run the command line as a shell would."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-m", "dac_codec", *map(str, arguments)], **options)


def files_below(folder: str = ".") -> set[str]:
    """All files in a folder except the cache, including temporary ones."""
    paths = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if path.parts[0] != ".cache"}


def errors_of(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("Error: ")]


def raw_noise(seconds: float) -> bytes:
    return (noise(int(44100 * seconds)) * 32767).astype("<i2").tobytes()
