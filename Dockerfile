# docker build -t dac-codec .                                   runs on the CPU
# docker build -t dac-codec --build-arg DEVICE=cuda .           runs on NVIDIA GPUs (docker run --gpus all)
# docker run --rm -v "$PWD:/data" -w /data dac-codec compress song.wav -o song.dac
ARG DEVICE=cpu

# Debian's own torch is built for the CPU alone, a tenth of the size of the one that pip would take.
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
