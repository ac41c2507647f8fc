"""Downloads that resume, run once at a time, and appear only when complete and checked."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from email.message import Message
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from dac_codec.common.errors import CheckpointError
from dac_codec.common.files import expanded, to_json, write_file
from dac_codec.common.progress import progress_bar

_TIMEOUT_S = 30.0
_SILENT_WAIT_S = 3.0
_RETRY_WAITS_S = (1.0, 2.0, 4.0)


def cache_folder() -> Path:
    """Where downloads are kept: DAC_CODEC_CACHE of the environment, or the platform's cache folder."""
    chosen = os.environ.get("DAC_CODEC_CACHE")
    return expanded(chosen) if chosen else Path(platformdirs.user_cache_dir("dac_codec"))


def download(url: str, target: Path, check: Callable[[Path], object], progress: bool) -> None:
    """Fetch `url` to `target`, which appears only once it is complete and `check` has accepted it.

    Data is kept in a `.part` file, which a later call or another process resumes. A lock lets one process download at a
    time. Raises a CheckpointError if the download failed, or `check` raised, in which case the data is removed.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(target.name + ".lock")):
            if target.exists():  # Another process downloaded it meanwhile.
                return
            if reason := _receive_with_retries(url, part, progress):
                raise CheckpointError(
                    f"{url} can't be downloaded: {reason}. Check the network and try again (the partial download is "
                    f"kept), or fetch the file on another machine and put it at {target}"
                )
            try:
                check(part)
            except CheckpointError as error:
                _discard(part)
                raise CheckpointError(
                    f"the download of {url} is not the expected model, and was removed: {error}"
                ) from error
            part.replace(target)
            _discard(part)
    except OSError as error:
        raise CheckpointError(f"{target} can't be written: {error}") from error


def verified_digest(file: Path) -> str:
    """The SHA-256 of a cached file, which must be the one that `record_digest` recorded at its first use, if any.

    Raises CheckpointError if the file has changed, or the file or its record can't be read.
    """
    digest = _sha256(file)
    recorded = _read_record(_record_of(file)).get("sha256")
    if recorded not in (None, digest):
        raise CheckpointError(
            f"{file} has changed since it was first used: its SHA-256 is {digest}, and was {recorded}. Delete it to "
            f"download it again, or delete {_record_of(file)} if you trust the file as it is now"
        )
    return digest


def _locked(path: Path) -> AbstractContextManager[object]:
    """Hold a lock; a warning says so if another process holds it for longer than `_SILENT_WAIT_S`."""
    lock = FileLock(path)
    with suppress(Timeout):
        return lock.acquire(timeout=_SILENT_WAIT_S)
    warnings.warn(f"waiting for another process that downloads the same file and holds {path}", stacklevel=2)
    return lock.acquire()


def check_digest(file: Path, expected: str | None) -> str:
    """The SHA-256 of a file; raises a CheckpointError if another one is `expected`, or the file can't be read."""
    digest = _sha256(file)
    if expected not in (None, digest):
        raise CheckpointError(f"{file} has the SHA-256 {digest}, expected {expected}: it is not the published file")
    return digest


def record_digest(file: Path, url: str, digest: str) -> None:
    """Record the SHA-256 of a cached file in a JSON file beside it, unless there is one or the cache is read-only."""
    if not _record_of(file).exists():
        with suppress(OSError):
            write_file(_record_of(file), to_json({"url": url, "sha256": digest}))


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error}") from error
    return digest.hexdigest()


def _record_of(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def _read_record(file: Path) -> dict[str, Any]:
    """The JSON object beside a cached file; empty if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} can't be read ({error}); delete it if you trust the file beside it") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a JSON object; delete it if you trust the file beside it")
    return content


def _receive_with_retries(url: str, part: Path, progress: bool) -> str | None:
    """Fetch `url` to `part`, retrying temporary failures; returns the reason of a failure, or None."""
    reason = ""
    for attempt, wait in enumerate((0.0, *_RETRY_WAITS_S)):
        time.sleep(wait)
        try:
            _receive(url, part, progress)
            return None
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answered {error.code} {error.reason}"
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                _discard(part)
            elif error.code < 500 and error.code not in (http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS):
                break
        except urllib.error.URLError as error:
            reason = f"no connection ({error.reason})"
            if attempt == 0:  # Without a network at all, a retry a second later does not help.
                break
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
                raise
            reason = f"the connection broke ({error})"
        except ValueError as error:
            reason = f"invalid address ({error})"
            break
    return reason


def _receive(url: str, part: Path, progress: bool) -> None:
    """Append the missing bytes of `url` to `part` (RFC 9110, section 14), or start over if the server requires it.

    Raises:
        OSError, http.client.HTTPException: no connection, or it broke; received data stays in `part`.
    """
    record_file = _record_of(part)
    try:
        record = _read_record(record_file)
    except CheckpointError:
        record = {}
    have = part.stat().st_size if part.exists() and record.get("url") == url else 0
    if have and have == record.get("size"):
        return
    known = record.get("validator")
    request = urllib.request.Request(url, headers={"User-Agent": "dac_codec", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if known:
            request.add_header("If-Range", known)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        validator = _validator(response.headers)
        if response.status == http.client.PARTIAL_CONTENT:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            start, size = map(int, match.groups()) if match else (None, None)
            # Not every server heeds If-Range.
            if start != have or record.get("size") not in (None, size) or validator not in (None, known):
                _discard(part)
                raise ConnectionError("the file on the server is not the one that the download began with")
        else:
            length = response.headers.get("Content-Length", "")
            have, size = 0, int(length) if length.isdecimal() else None
            part.write_bytes(b"")  # Before the record: old bytes must never be paired with a new validator.
            record = {"url": url, "size": size, "validator": validator}
            write_file(record_file, to_json(record))
        with (
            part.open("ab") as file,
            progress_bar(url.rpartition("/")[2], size, progress, initial=have, unit="B", unit_scale=True) as bar,
        ):
            while block := response.read1(1 << 16):
                bar.update(file.write(block))
                file.flush()  # So that a killed process keeps all that it received.
    received = part.stat().st_size
    if size is not None and received != size:
        raise ConnectionError(f"{received} of {size} bytes received")


def _validator(headers: Message) -> str | None:
    """What distinguishes versions of a remote file: its strong ETag, or else its date."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _discard(part: Path) -> None:
    """Remove a partial download and its record."""
    part.unlink(missing_ok=True)
    _record_of(part).unlink(missing_ok=True)
