"""Stream a sound through the codec over a local socket and print its latency.

    python scripts/live_loopback.py song.wav --chunk-frames 4

A thread encodes the sound in real time (--speed 0: as fast as possible) and writes a .dac stream of small chunks to a
socket; the main thread reads and decodes it and records when each sample arrives. The latency of a sample is the time
from its input to its output. Its lower bound is the algorithmic latency: a chunk, and the look-ahead of encoder and
decoder. It is an error if samples are missing at the end.
"""

from __future__ import annotations

import argparse
import math
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch

from dac_codec import DAC, StreamingDecoder, StreamingEncoder, audio, bitstream, prepare, pretrained
from dac_codec.common.errors import DacError
from dac_codec.common.scripts import exit_status
from dac_codec.inference import decoder_look_ahead, encoder_look_ahead

HOST = "127.0.0.1"


def send(connection: socket.socket, sound: audio.Audio, model: DAC, chunk_frames: int, speed: float) -> None:
    """Encode a sound [1, T] at the model's rate in real time times `speed`, and close the connection."""
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
    n_sent = 0
    with connection, connection.makefile("wb") as stream:
        writer = bitstream.Writer(stream, header, chunk_frames)
        for chunk in torch.from_numpy(sound)[None].split(chunk_frames * model.hop_length, -1):
            n_sent += chunk.shape[-1]
            if speed:
                time.sleep(max(0.0, started + n_sent / model.sample_rate / speed - time.perf_counter()))
            writer.write(encoder.push(chunk).cpu().numpy())
            writer.flush()
        writer.write(encoder.flush().cpu().numpy())
        writer.close(n_sent)


def receive(connection: socket.socket, model: DAC) -> tuple[audio.Audio, list[tuple[int, float]]]:
    """Decode the stream; return the sound [1, T], and pairs of the number of samples so far and the time.

    Raises:
        BitstreamError: the stream ends early.
    """
    decoder = StreamingDecoder(model)
    pieces: list[audio.Audio] = []
    times: list[float] = []

    def note(decoded: torch.Tensor) -> None:
        pieces.append(decoded[0].cpu().numpy())
        times.append(time.perf_counter())

    with connection, connection.makefile("rb") as stream:
        reader = bitstream.Reader(stream)
        for chunk in reader:
            note(decoder.push(torch.from_numpy(chunk.codes.astype(np.int64))))
    note(decoder.flush())
    n_received = accumulate(piece.shape[1] for piece in pieces)
    # The last frame is padded.
    return np.concatenate(pieces, axis=1)[:, : reader.n_samples], list(zip(n_received, times, strict=True))


def loop(
    sound: audio.Audio, model: DAC, chunk_frames: int, speed: float
) -> tuple[audio.Audio, float, list[tuple[int, float]]]:
    """Send a sound [1, T] through a socket; return the decoded sound, the start time, and the times of `receive`."""
    with socket.create_server((HOST, 0)) as server:
        sending = socket.create_connection(server.getsockname())
        receiving, _ = server.accept()
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as executor:
        sender = executor.submit(send, sending, sound, model, chunk_frames, speed)
        try:
            arrived, arrivals = receive(receiving, model)
        finally:
            sender.result()  # its exception is why the stream ended early
    return arrived, started, arrivals


def main() -> None:
    """Print the latencies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sound", type=Path, help="a sound file; its first channel is sent")
    parser.add_argument("--model", default=pretrained.DEFAULT_MODEL, help="name, folder or file [%(default)s]")
    parser.add_argument("--chunk-frames", type=int, default=4, help="frames per chunk [%(default)s]")
    parser.add_argument("--speed", type=float, default=1.0, help="times real time; 0: as fast as possible")
    arguments = parser.parse_args()
    if not 0 <= arguments.speed < math.inf:
        parser.error(f"--speed must be 0 or more, not {arguments.speed}")
    model = prepare(DAC.from_pretrained(arguments.model), exact=True)
    waveform, rate = audio.read(arguments.sound)
    sound = audio.resample(waveform[:1], rate, model.sample_rate)
    arrived, started, arrivals = loop(sound, model, arguments.chunk_frames, arguments.speed)
    if arrived.shape != sound.shape:
        raise DacError(f"{arrived.shape[1]} samples arrived, expected {sound.shape[1]}")

    seconds = sound.shape[1] / model.sample_rate
    chunk = arguments.chunk_frames * model.hop_length
    ahead = encoder_look_ahead(model) + decoder_look_ahead(model)
    print(f"sound                {seconds:.2f} s in chunks of {arguments.chunk_frames} frames, all received")
    print(f"algorithmic latency  {1000 * (chunk + ahead) / model.sample_rate:.1f} ms")
    if arguments.speed:
        # The first sample of a chunk has the highest latency.
        late = [
            moment - started - n_before / model.sample_rate / arguments.speed
            for (n_before, _), (n_samples, moment) in pairwise([(0, 0.0), *arrivals])
            if n_samples > n_before
        ]
        print(f"end-to-end latency   {1000 * np.median(late):.1f} ms median, {1000 * max(late):.1f} ms maximum")
    print(f"real-time factor     {seconds / (arrivals[-1][1] - started):.2f}x")


if __name__ == "__main__":
    sys.exit(exit_status(main))
