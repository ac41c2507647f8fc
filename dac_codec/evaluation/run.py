"""Every clip through every codec at every setting, in several processes; finished results are kept in files."""

from __future__ import annotations

import math
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import torch

import dac_codec
from dac_codec.common.errors import DacError
from dac_codec.common.progress import progress_bar
from dac_codec.common.signals import follow_parent
from dac_codec.common.threads import available_cores
from dac_codec.evaluation.clips import Clip
from dac_codec.evaluation.codecs import Codec, Setting
from dac_codec.evaluation.metrics import METRICS_VERSION, Metric
from dac_codec.evaluation.results import Result, flac, key, packed

PLAYED_PER_DOMAIN = 2
"""Clips of each domain that the page can play, while there are few domains."""

PLAYED = 12
"""Clips in all that the page can play: it embeds each with every version and its spectrogram."""

_warm: set[str] = set()  # fingerprints of the codecs that this process has warmed up


@dataclass(frozen=True)
class Task:
    """A clip to code and measure, the metrics that apply to it, and the file for the result."""

    clip: Clip
    sample_rate: int
    codec: Codec
    fingerprint: str
    setting: Setting
    metrics: tuple[Metric, ...]
    with_sound: bool
    path: Path


@dataclass(frozen=True)
class Outcome:
    """The results in the order of their tasks, and a line for each task that failed."""

    results: list[Result]
    failures: list[str]


def played_clips(clips: Sequence[Clip]) -> list[Clip]:
    """The clips that the page can play, by domain: the first and the middle one of each.

    If those are more than `PLAYED`, as many domains as possible, evenly spread, get one, and then a second.
    """
    domains: dict[str, list[Clip]] = {}
    for clip in clips:
        domains.setdefault(clip.domain, []).append(clip)
    candidates = [group[:: max(1, len(group) // PLAYED_PER_DOMAIN)][:PLAYED_PER_DOMAIN] for group in domains.values()]
    places: list[tuple[int, int]] = []
    for turn in range(PLAYED_PER_DOMAIN):
        possible = [(domain, turn) for domain, group in enumerate(candidates) if turn < len(group)]
        n_chosen = min(len(possible), PLAYED - len(places))
        places += [possible[i * len(possible) // n_chosen] for i in range(n_chosen)]
    return [candidates[domain][turn] for domain, turn in sorted(places)]


def run(
    clips: Sequence[Clip],
    sample_rate: int,
    codecs: Sequence[tuple[Codec, Sequence[Setting]]],
    metrics: Sequence[Metric],
    cache: Path,
    workers: int | None = None,
    progress: bool = True,
) -> Outcome:
    """Code and measure all clips; results of earlier runs in the existing folder `cache` are reused.

    `workers` is the number of processes; None: one per CPU; 1: only this one. Codecs always run with one thread.

    Raises:
        DacError: a process was killed.
        MemoryError: there is not enough memory.
    """
    measures = "; ".join(metric.fingerprint for metric in metrics)
    common = f"dac_codec {dac_codec.__version__}, metrics {METRICS_VERSION}"
    played = {clip.name for clip in played_clips(clips)}
    fingerprints = [codec.fingerprint for codec, _ in codecs]
    tasks = []
    for clip in clips:
        applying = tuple(metric for metric in metrics if metric.applies_to(clip.domain))
        with_sound = clip.name in played
        for (codec, settings), fingerprint in zip(codecs, fingerprints, strict=True):
            for setting in settings:
                name = key(clip, sample_rate, common, fingerprint, setting.name, measures, with_sound)
                path = cache / f"{name}.json"
                tasks.append(Task(clip, sample_rate, codec, fingerprint, setting, applying, with_sound, path))
    todo = [task for task in tasks if _kept(task) is None]
    failures = []
    with progress_bar("evaluating", len(tasks), progress, initial=len(tasks) - len(todo)) as bar:
        for task, failure in _work(todo, min(workers or available_cores(), len(todo))):
            bar.update()
            if failure is not None:
                failures.append(f"{task.clip.name}, {task.codec.name} {task.setting.name}: {failure}")
    results = [_kept(task) for task in tasks]
    return Outcome([one for one in results if one is not None], failures)


def _kept(task: Task) -> Result | None:
    """The result of a task in its file; None if there is none, or it is that of another task."""
    result, clip = Result.load(task.path), task.clip
    wanted = {metric.name for metric in task.metrics}
    if (
        result is None
        or (result.clip, result.domain, result.sources) != (clip.name, clip.domain, list(clip.sources))
        or (result.codec, result.setting) != (task.codec.name, task.setting.name)
        or (set(result.measures), result.sound is not None) != (wanted, task.with_sound)
    ):
        return None
    return result


def _evaluate(task: Task) -> None:
    """Do one task, and write its result."""
    original = task.clip.waveform
    with _one_thread(), _errors_of("the codec"):
        _warm_up(task)
        coded = task.codec.code(original, task.sample_rate, task.setting)
    if coded.decoded.shape != original.shape:
        raise DacError(f"the codec gave {coded.decoded.shape} samples for {original.shape}")
    if not np.isfinite(coded.decoded).all():
        raise DacError("the codec gave samples that are not finite")
    measures = {}
    for metric in task.metrics:
        with _errors_of(metric.label):
            value = metric.measure(coded.decoded, original, task.sample_rate)
        measures[metric.name] = value if math.isfinite(value) else None
    Result(
        clip=task.clip.name,
        domain=task.clip.domain,
        seconds=original.shape[-1] / task.sample_rate,
        codec=task.codec.name,
        setting=task.setting.name,
        n_bytes=coded.n_bytes,
        payload_bytes=coded.payload_bytes,
        encode_seconds=coded.encode_seconds,
        decode_seconds=coded.decode_seconds,
        measures=measures,
        codes=None if coded.codes is None else packed(coded.codes),
        n_codebooks=0 if coded.codes is None else len(coded.codes),
        codebook_size=coded.codebook_size,
        sound=flac(coded.decoded, task.sample_rate) if task.with_sound else None,
        sources=list(task.clip.sources),
        code_bits=list(coded.code_bits),
    ).save(task.path)


def _warm_up(task: Task) -> None:
    """Code a second of the task's clip, once per codec, so that timings leave out what is set up once."""
    if task.fingerprint in _warm:
        return
    # A training run may write to a model's folder; results would be stored under the old fingerprint.
    if task.codec.fingerprint != task.fingerprint:
        raise DacError("the codec has changed since the evaluation began; start it again")
    try:
        task.codec.code(task.clip.waveform[:, : task.sample_rate], task.sample_rate, task.setting)
    except MemoryError:
        raise
    except Exception:
        return  # the clip itself shows whether this is a failure, and the next one warms up
    _warm.add(task.fingerprint)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Make PyTorch compute with one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Turn any exception but MemoryError into a DacError of one line that names the failing part."""
    try:
        yield
    except (DacError, MemoryError):
        raise
    except Exception as error:
        why = (str(error).strip() or "no message").splitlines()[0]
        raise DacError(f"{name} failed with {type(error).__name__}: {why}") from error


def _work(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, str | None]]:
    """Do tasks in any order; yields each one when it is done, with the reason if it failed."""
    if workers <= 1:
        _warm.clear()  # a codec may have changed since an earlier evaluation in this process
        for task in tasks:
            yield task, _failure_of(task)
        return
    # Forked processes would share PyTorch's threads, and hang.
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)
    done: SimpleQueue[tuple[Task, Future[str | None]]] = SimpleQueue()
    # Ctrl-C raises in the main thread only: in another one it can't interrupt the executor while it holds a lock.
    submitting = threading.Thread(target=_submit, args=(tasks, executor, done))
    try:
        submitting.start()
        for _ in tasks:
            task, future = done.get()
            yield task, future.result()
    except BrokenProcessPool as error:
        raise DacError("a process of the evaluation was killed, perhaps for lack of memory; start it again") from error
    finally:
        submitting.join()
        executor.shutdown(wait=True, cancel_futures=True)


def _submit(tasks: Sequence[Task], executor: Executor, done: SimpleQueue[tuple[Task, Future[str | None]]]) -> None:
    """Submit all tasks; each future is put into `done` when it has a result, or an error of its submission.

    SIGINT is blocked, which the processes inherit: before `_begin` they would print a traceback each.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for task in tasks:
        try:
            future = executor.submit(_failure_of, task)
        except Exception as error:
            future = Future()
            future.set_exception(error)

        def report(future: Future[str | None], task: Task = task) -> None:
            done.put((task, future))

        future.add_done_callback(report)


def _failure_of(task: Task) -> str | None:
    """Do a task; returns the reason if it failed."""
    try:
        with _errors_of("the evaluation"):
            _evaluate(task)
    except DacError as error:
        return str(error)
    return None


def _begin() -> None:
    """Initialize a worker process."""
    follow_parent()
    torch.set_num_threads(1)
