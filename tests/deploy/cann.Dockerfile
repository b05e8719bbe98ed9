# A stand-in for CANN's image: a toolkit that builds nothing, and the simulated runtime instead of the real one.
ARG DEBIAN_IMAGE
FROM ${DEBIAN_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY cann /usr/local/Ascend/cann
