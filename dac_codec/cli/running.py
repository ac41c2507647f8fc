"""How commands run jobs: at once or in batches, stopped by signals, with progress, messages and exit codes.

This is the only module of the command line that handles signals.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dac_codec.cli.jobs import DASH, STDIN_CLOSED, Job, JobList, OverwriteGuard, find_dac
from dac_codec.common.errors import CheckpointError, DacError, is_out_of_memory
from dac_codec.common.signals import handled_signals
from dac_codec.common.threads import available_cores, check_stop, parallel_map, prefetch, stoppable

if TYPE_CHECKING:
    from dac_codec.bitstream import Header
    from dac_codec.codec.batches import ShortFile
    from dac_codec.model import DAC

_MAX_AT_ONCE = 8  # files; each takes as much memory as one alone
_HEADROOM_BYTES = 2**29  # that the network needs beyond the libraries
_LOADING_SECONDS = 120.0  # a library that gets no memory may wait for it forever
_BATCHED_FILES = 32  # enough for some of similar length

_messages: ContextVar[list[str] | None] = ContextVar("messages", default=None)
"""Warnings of a job that runs beside others, to be shown in the order of the jobs; None: warnings are shown at once."""


# Signals --------------------------------------------------------------------------------------------------------------


_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def stopped_by_signals() -> Iterator[list[int]]:
    """Raise a KeyboardInterrupt on a signal, so that files are cleaned up. Yields the signals that arrived.

    Python drops an exception that a handler raises within a destructor or a weakref callback. So the signal is also
    noted: the next `check_stop`, or the end of the block, raises then.
    """
    arrived: list[int] = []
    with stoppable() as stop:

        def interrupt(number: int) -> None:
            arrived.append(number)
            stop.is_set = True
            raise KeyboardInterrupt

        try:
            with handled_signals(interrupt, *_STOPPING):
                yield arrived
        finally:
            if arrived:
                raise KeyboardInterrupt


@contextmanager
def recording(job: Job, active: bool) -> Iterator[list[int]]:
    """Let the first signal end the input of a job instead of the run, so that what was recorded is kept.

    Yields that signal once it has arrived. Later signals are handled as before.
    """
    arrived: list[int] = []

    def end_input(number: int) -> None:
        arrived.append(number)
        restore()
        job.end_input()

    with handled_signals(end_input, *_STOPPING) if active else nullcontext(lambda: None) as restore:
        yield arrived


# Jobs -----------------------------------------------------------------------------------------------------------------


@contextmanager
def shared_cores(jobs: JobList, device: str) -> Iterator[tuple[int, bool]]:
    """Divide the processor's cores among jobs; yields the number that run at once, and whether to use batches.

    On a CPU, one core each for two files is faster than two cores for one file after the other, unless one file is
    much longer than the others. On a GPU, cores read and write files whose network runs in batches.
    """
    import torch

    from dac_codec.codec.batches import uses_batches

    # PyTorch's number follows the affinity and OMP_NUM_THREADS, but not the quota of a container.
    n_before, n_jobs = torch.get_num_threads(), jobs.n_independent()
    n_cores = min(n_before, available_cores())
    batched = n_jobs > 1 and uses_batches(device)
    n_at_once = max(1, min(n_cores, _MAX_AT_ONCE, n_jobs if batched else min(n_jobs, int(jobs.evenness()))))
    torch.set_num_threads(max(1, n_cores // n_at_once))  # for threads that start from now on
    try:
        yield n_at_once, batched
    finally:
        torch.set_num_threads(n_before)


def run(
    jobs: JobList,
    work: Callable[[Job], str],
    force: bool,
    quiet: bool,
    n_at_once: int = 1,
    read: Callable[[Job], ShortFile | None] | None = None,
    summary: Callable[[Job, Any], str] | None = None,
    as_json: bool = False,
) -> None:
    """Do all jobs, and end the run with exit code 1 if any failed. Messages are shown in the order of the jobs.

    Args:
        jobs: the jobs.
        work: does one job, and returns a summary.
        force, quiet: the options.
        n_at_once: jobs that run at a time.
        read: reads the input of a job that can share a batch, and gives None for others. None: no batches are used.
        summary: the summary of a job that was part of a batch, given its result.
        as_json: whether to print the jobs' figures at the end instead of their summaries.
    """
    from tqdm import tqdm

    failures = [error_line(name, error) for name, error in jobs.failures]
    guard = OverwriteGuard(jobs.jobs, force)
    done: list[Job] = []
    hide_bar = True if quiet or len(jobs.jobs) == 1 else None  # None: unless it is a terminal
    with ExitStack() as stack:
        others: Iterator[Any] | None = None
        if read is not None and summary is not None:
            others = stack.enter_context(closing(_batched(jobs.jobs, guard, work, read, summary, n_at_once)))
        elif n_at_once > 1:
            others = stack.enter_context(closing(parallel_map(partial(_done, work, guard), jobs.jobs, n_at_once)))
        for job in tqdm(jobs.jobs, unit="file", leave=False, disable=hide_bar):
            try:
                if others is not None:
                    outcome = next(others)
                else:
                    with _caught() as found, guard.writing(job.target):
                        found.append(work(job))
                    (outcome,) = found
            except KeyboardInterrupt:
                if done:
                    count = f"{len(done)} of {len(jobs.jobs)} files are done"
                    click.echo(f"{count}; --skip-existing continues with the others", err=True)
                raise
            for line in job.messages:
                tqdm.write(line, file=sys.stderr)
            if isinstance(outcome, Exception):
                failures.append(error_line(job.source_name, outcome, job.target_name))
                continue
            done.append(job)
            if not quiet and not as_json:
                tqdm.write(f"{job.source_name} -> {job.target_name}  {outcome}", file=sys.stderr)
    if as_json:
        print_json(done, failures)
    finish(failures)


@contextmanager
def _caught() -> Iterator[list[Any]]:
    """Yield a list for the block's one result; an error that fails one job and not the run takes its place."""
    check_stop()
    found: list[Any] = []
    try:
        yield found
    except BrokenPipeError:
        raise
    except (DacError, OSError, MemoryError) as error:
        found[:] = [error]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        found[:] = [MemoryError()]


def _done(work: Callable[[Job], str], guard: OverwriteGuard, job: Job) -> Any:
    """The summary of a job by `work`, or its error. Warnings go to the job's messages."""
    _messages.set(job.messages)
    with _caught() as found, guard.writing(job.target):
        found.append(work(job))
    return found[0]


def _batched(
    jobs: Sequence[Job],
    guard: OverwriteGuard,
    work: Callable[[Job], str],
    read: Callable[[Job], ShortFile | None],
    summary: Callable[[Job, Any], str],
    n_at_once: int,
) -> Generator[Any, None, None]:
    """The summary or the error of each job, in order. A group of jobs is read while the previous one is computed."""
    from dac_codec.codec.batches import ShortFile, compute

    def start(job: Job) -> Any:
        """The file read, or the outcome of a job that is done alone."""
        _messages.set(job.messages)
        with _caught() as found:
            guard.check(job.target)
            found.append(read(job))
        return _done(work, guard, job) if found[0] is None else found[0]

    def end(step: tuple[Job, Any, Any]) -> Any:
        job, file, output = step
        if not isinstance(file, ShortFile):
            return file
        if isinstance(output, Exception):
            return output
        return _done(lambda job: summary(job, file.write(output, job.output())), guard, job)

    groups = [jobs[first : first + _BATCHED_FILES] for first in range(0, len(jobs), _BATCHED_FILES)]
    with prefetch(list(parallel_map(start, group, n_at_once)) for group in groups) as inputs:
        for group, files in zip(groups, inputs, strict=True):
            outputs = iter(compute([file for file in files if isinstance(file, ShortFile)]))
            computed = [next(outputs) if isinstance(file, ShortFile) else None for file in files]
            yield from parallel_map(end, list(zip(group, files, computed, strict=True)), n_at_once)


def model_loader(
    given: str | None, device: str, progress: bool, fast: bool = False, download: bool = False
) -> Callable[[Header | None], DAC | None]:
    """A function that maps a file's header to its model: the given one, else the one that it names, loaded once.

    A file of descript-audio-codec has no header; without a given model, it has none. The function raises a
    ModelMismatchError for a file that names no bundled or published model, and a CheckpointError for one whose model
    would have to be downloaded, unless `download` is given or the user at a terminal agrees.
    """
    from dac_codec import codec

    refused: set[str] = set()

    def ask(name: str) -> bool:
        if not download and (name in refused or not _agrees_to_download(name)):
            refused.add(name)
            raise CheckpointError(
                f"the file names the model {name}, whose weights (about 300 MB) are not on this machine; --download "
                "fetches them"
            )
        return True

    given_model = None if given is None else codec.load_model(given, device, progress, fast)
    by_name: dict[str, DAC] = {}
    lock = threading.Lock()

    def model_for(header: Header | None) -> DAC | None:
        if given_model is not None or header is None:
            return given_model
        with lock:
            if header.model_name not in by_name:
                by_name[header.model_name] = codec.model_of(header, None, device, progress, fast, ask)
            return by_name[header.model_name]

    return model_for


def _agrees_to_download(name: str) -> bool:
    """Ask at a terminal whether to download a model; False where there is none."""
    if sys.stdin is None or not sys.stdin.isatty() or not sys.stderr.isatty():
        return False
    return click.confirm(f"The file names the model {name}. Download its weights, about 300 MB?", err=True)


def training_module(name: str) -> Any:
    """A module of `dac_codec.training`, imported by name: the other commands stay free of the packages for training.

    Raises a DacError if one of these is not installed.
    """
    try:
        return import_module(f"dac_codec.training.{name}")
    except ModuleNotFoundError as error:
        raise DacError(f"{error.name} is not installed: pip install 'dac_codec[train]'") from error


def check_device(device: str) -> None:
    """Raise a DacError if `device` is a device that is not there."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DacError("PyTorch finds no CUDA device; leave out --device, or use --device cpu")
    index = int(device.partition(":")[2] or 0)
    if device.startswith("cuda") and index >= torch.cuda.device_count():
        raise DacError(f"PyTorch finds {torch.cuda.device_count()} CUDA devices, and {device} would be another one")
    if device == "mps" and not torch.backends.mps.is_available():
        raise DacError("PyTorch finds no MPS device; leave out --device, or use --device cpu")


def check_memory() -> None:
    """Raise a DacError if a limit on the address space (`ulimit -v`) is too low for PyTorch.

    Native libraries crash or hang where they get no memory, so that a child process tries to load them first.
    """
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except ImportError:  # on Windows
        return
    if limit == resource.RLIM_INFINITY or "torch" in sys.modules:
        return
    script = f"import mmap, torch, soundfile, soxr, dac_codec.codec; mmap.mmap(-1, {_HEADROOM_BYTES})"
    try:
        subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=_LOADING_SECONDS, check=True)
    except subprocess.SubprocessError:
        raise DacError(f"not enough memory: it is limited to {limit // 2**20} MiB (ulimit -v), too little") from None


def files_of(names: Sequence[str], failures: list[str]) -> Iterator[str]:
    """The names, and in place of a folder those of the .dac files in it; a folder without any is a failure."""
    for name in names:
        if name == DASH or not Path(name).is_dir():
            yield name
            continue
        try:
            found = find_dac(Path(name))
        except OSError as error:
            failures.append(error_line(name, error))
            continue
        if not found:
            failures.append(error_line(name, DacError("no .dac files in this folder or below it")))
        yield from map(str, found)


def described(names: Sequence[str], failures: list[str]) -> Iterator[dict[str, Any]]:
    """The metadata of .dac files, of those in folders and of standard input. Errors are added to `failures`."""
    from dac_codec.bitstream.describe import describe

    for name in files_of(names, failures):
        try:
            if name == DASH and sys.stdin is None:
                raise DacError(STDIN_CLOSED)
            data = sys.stdin.buffer.read() if name == DASH else Path(name).read_bytes()
            yield {"file": name, **describe(data)}
        except (DacError, OSError, MemoryError) as error:
            failures.append(error_line(name, error))


def skip_existing(jobs: JobList, skip: bool, force: bool, quiet: bool) -> None:
    """With `skip`, leave out the jobs whose output exists and is no input, and say how many.

    Raises a click.UsageError if `force` is given too.
    """
    if skip and force:
        raise click.UsageError("--skip-existing and --force can't be combined")
    if skip and (n_skipped := jobs.skip_existing()) and not quiet:
        files = "1 file" if n_skipped == 1 else f"{n_skipped} files"
        click.echo(f"{files} skipped: the output exists", err=True)


def finish_if_empty(jobs: JobList, as_json: bool = False) -> None:
    """End the run if there are only failures, or nothing is left to do.

    Raises a click.UsageError if the figures in JSON and the data of a job would both go to standard output.
    """
    if as_json and any(job.target is None for job in jobs.jobs):
        raise click.UsageError("--json prints to standard output, where the data would go; pass a file with -o")
    if not jobs.jobs:
        failures = [error_line(name, error) for name, error in jobs.failures]
        if as_json:
            print_json([], failures)
        finish(failures)
        raise click.exceptions.Exit(0)


# Messages -------------------------------------------------------------------------------------------------------------


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Show each warning as one line, at once or with the other messages of its job."""

    def show(message: Warning | str, *place: Any, **more: Any) -> None:
        from tqdm import tqdm

        line = f"Warning: {one_line(message)}"
        if (messages := _messages.get()) is None:
            tqdm.write(line, file=sys.stderr)
        else:
            messages.append(line)

    _messages.set(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def print_json(done: Sequence[Job], failures: list[str]) -> None:
    """Print what was done, with each job's figures, and what failed."""
    files = [{"input": str(job.source or DASH), "output": str(job.target), **job.figures} for job in done]
    click.echo(json.dumps({"files": files, "failures": failures}, indent=2))


def finish(failures: list[str]) -> None:
    """Show the failures, and end the run with exit code 1 if there are any."""
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if len(failures) > 1:
        click.echo(f"{len(failures)} failed", err=True)
    if failures:
        raise click.exceptions.Exit(1)


def error_line(name: str, error: Exception, target: str | None = None) -> str:
    """The message of an error, prefixed with the name of its file unless it contains it or is about the output."""
    show_traceback(error)
    text = one_line(error)
    if target is not None and isinstance(error, OSError) and (error.errno, error.filename) == (errno.ENOSPC, None):
        text = f"can't write {target}: {text}"  # standard output
    of_output = text.startswith((f"{target}: can't be written", f"can't write {target}:"))
    return text if of_output or f"{name}:" in text else f"{name}: {text}"


def show_traceback(error: BaseException) -> None:
    """Print where an error comes from, with -v."""
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get("verbose"):
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)


def one_line(error: Warning | Exception | str) -> str:
    """The message of an error or a warning in one line."""
    if isinstance(error, MemoryError):
        return f"not enough memory ({error})" if str(error) else "not enough memory"
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return " ".join(str(error).split())


def speed(job: Job, duration: float, started: float) -> str:
    """Seconds of audio per second since `started`, which is also one of the job's figures."""
    job.figures["speed"] = duration / (time.perf_counter() - started)
    return f"{job.figures['speed']:.1f}x real time"
