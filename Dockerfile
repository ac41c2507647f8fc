# docker build -t dac-codec .                            for CPUs
# docker build -t dac-codec --build-arg DEVICE=cuda .    for NVIDIA GPUs (docker run --gpus all)
# docker run --rm -v "$PWD:/data" -w /data dac-codec compress song.wav -o song.dac
ARG DEVICE=cpu

# Debian's torch is a CPU build, a tenth of the size of PyPI's CUDA build.
FROM debian:trixie-slim AS cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv python3-torch \
    && rm -rf /var/lib/apt/lists/*

FROM debian:trixie-slim AS cuda
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM ${DEVICE}
COPY . /src
RUN python3 -m venv --system-site-packages /opt/dac_codec \
    && /opt/dac_codec/bin/pip install --no-cache-dir /src \
    && rm -rf /src
ENTRYPOINT ["/opt/dac_codec/bin/dac-codec"]
