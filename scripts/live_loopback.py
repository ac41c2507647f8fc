"""Send a sound through the codec over a socket of this machine as if it were live, and print how late it arrives.

    python scripts/live_loopback.py song.wav --chunk-frames 4

A thread takes the sound in real time (or faster: --speed 0 doesn't wait at all), encodes it as it comes and writes a
.dac stream of small chunks to a socket; the main thread reads it, decodes it and notes when each sample is there. A
sample's latency is the time from when it is spoken to when it is heard. It can't be less than the algorithmic latency:
a chunk, and what the encoder and the decoder have to look ahead. Where not all of the sound arrives, that is an error.
"""

from __future__ import annotations

import argparse
import math
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from dac_codec import DAC, StreamingDecoder, StreamingEncoder, audio, bitstream, prepare, pretrained
from dac_codec.common.errors import DacError
from dac_codec.common.scripts import exit_status
from dac_codec.inference import decoder_look_ahead, encoder_look_ahead

HOST = "127.0.0.1"


def send(connection: socket.socket, sound: audio.Audio, model: DAC, chunk_frames: int, speed: float) -> None:
    """Encode a sound [1, T] at the model's rate as if it came from a microphone, and close the connection."""
    header = bitstream.Header(
        model_fingerprint=pretrained.fingerprint(model)[:8],
        model_name=model.name,
        sample_rate=model.sample_rate,
        channels=1,
        n_samples=None,
        gain_db=0.0,
        model_sample_rate=model.sample_rate,
        hop_length=model.hop_length,
        n_codebooks=model.n_codebooks,
        codebook_size=model.codebook_size,
    )
    encoder = StreamingEncoder(model)
    started = time.perf_counter()
    n_spoken = 0
    with connection, connection.makefile("wb") as stream:
        writer = bitstream.Writer(stream, header, chunk_frames)
        for chunk in torch.from_numpy(sound)[None].split(chunk_frames * model.hop_length, -1):
            n_spoken += chunk.shape[-1]
            if speed:
                time.sleep(max(0.0, started + n_spoken / model.sample_rate / speed - time.perf_counter()))
            writer.write(encoder.push(chunk).cpu().numpy())
            writer.flush()
        writer.write(encoder.flush().cpu().numpy())
        writer.close(n_spoken)


def receive(connection: socket.socket, model: DAC) -> tuple[audio.Audio, list[tuple[int, float]]]:
    """Decode what comes; return the sound [1, T], and how many samples of it there were by what time.

    Raises:
        BitstreamError: the stream ends early.
    """
    decoder = StreamingDecoder(model)
    pieces: list[audio.Audio] = []
    heard: list[tuple[int, float]] = []
    n_heard = 0

    def hear(decoded: torch.Tensor) -> None:
        nonlocal n_heard
        pieces.append(decoded[0].cpu().numpy())
        n_heard += decoded.shape[-1]
        heard.append((n_heard, time.perf_counter()))

    with connection, connection.makefile("rb") as stream:
        reader = bitstream.Reader(stream)
        for codes in reader:
            hear(decoder.push(torch.from_numpy(codes.astype(np.int64))))
    hear(decoder.flush())
    # The last frame may be more than what was left of the sound.
    return np.concatenate(pieces, axis=1)[:, : reader.n_samples], heard


def loop(
    sound: audio.Audio, model: DAC, chunk_frames: int, speed: float
) -> tuple[audio.Audio, float, list[tuple[int, float]]]:
    """Send a sound [1, T] to ourselves; return what arrives, when it started, and what `receive` tells of it."""
    with socket.create_server((HOST, 0)) as server:
        sending = socket.create_connection(server.getsockname())
        receiving, _ = server.accept()
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as executor:
        sender = executor.submit(send, sending, sound, model, chunk_frames, speed)
        try:
            arrived, heard = receive(receiving, model)
        finally:
            sender.result()  # what went wrong there is why the stream ends early
    return arrived, started, heard


def main() -> int:
    """Print the latencies. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sound", type=Path, help="a sound file, of which the first channel is sent")
    parser.add_argument("--model", default=pretrained.DEFAULT_MODEL, help="a name, folder or file, as for dac-codec")
    parser.add_argument("--chunk-frames", type=int, default=4, help="frames that are sent together")
    parser.add_argument("--speed", type=float, default=1.0, help="times real time; 0: as fast as it goes")
    arguments = parser.parse_args()
    if not 0 <= arguments.speed < math.inf:
        parser.error(f"--speed must be 0 or more, not {arguments.speed}")
    model = prepare(DAC.from_pretrained(arguments.model), exact=True)
    waveform, rate = audio.read(arguments.sound)
    sound = audio.resample(waveform[:1], rate, model.sample_rate)
    arrived, started, heard = loop(sound, model, arguments.chunk_frames, arguments.speed)
    if arrived.shape != sound.shape:
        raise DacError(f"{arrived.shape[1]} samples arrived of {sound.shape[1]}")

    seconds = sound.shape[1] / model.sample_rate
    chunk = arguments.chunk_frames * model.hop_length
    ahead = encoder_look_ahead(model) + decoder_look_ahead(model)
    print(f"sound                {seconds:.2f} s in chunks of {arguments.chunk_frames} frames, all of which arrived")
    print(f"algorithmic latency  {1000 * (chunk + ahead) / model.sample_rate:.1f} ms")
    if arguments.speed:
        # The oldest sample of what comes has waited the longest.
        late = [
            moment - started - n_before / model.sample_rate / arguments.speed
            for (n_before, _), (n_samples, moment) in pairwise([(0, 0.0), *heard])
            if n_samples > n_before
        ]
        print(f"end-to-end latency   {1000 * np.median(late):.1f} ms in the middle, {1000 * max(late):.1f} ms at most")
    print(f"real-time factor     {seconds / (heard[-1][1] - started):.2f}x")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
