# Targets `cpu` and `ascend`. To make a build repeatable, pin the bases by digest:
#   docker build --target cpu --build-arg DEBIAN_IMAGE=docker.io/library/debian:bookworm-slim@sha256:... .
ARG DEBIAN_IMAGE=docker.io/library/debian:bookworm-slim
ARG CANN_IMAGE=quay.io/ascend/cann:9.1.0-910b-ubuntu22.04-py3.12
# The same image with the compiler. CANN 8.5 has one image for both: give both arguments its name.
ARG CANN_BUILD_IMAGE=quay.io/ascend/cann:9.1.0-910b-ubuntu22.04-py3.12-devel

# The release of the base determines the versions of Debian's packages.
FROM ${DEBIAN_IMAGE} AS build-cpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
WORKDIR /src
COPY . .
# The packages of deploy/requirements*.txt and no others, each with the hash that is written there.
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --requirement deploy/requirements-build.txt \
    && MSE_GRAD_BUILD_KERNEL=require /opt/build/bin/python -m hatchling build --target wheel --directory /opt/wheel \
    && python3 -m venv /opt/mse-grad \
    && /opt/mse-grad/bin/pip install --no-cache-dir --require-hashes --requirement deploy/requirements.txt \
    && /opt/mse-grad/bin/pip install --no-cache-dir --no-index --no-deps /opt/wheel/*.whl \
    && /opt/mse-grad/bin/pip uninstall --yes pip setuptools

FROM ${DEBIAN_IMAGE} AS cpu
ARG DEBIAN_IMAGE
ARG VERSION=0.1.0
# Commit, time and address of the sources: `make image` gives them.
ARG REVISION
ARG CREATED
ARG SOURCE
LABEL org.opencontainers.image.title="mse-grad" \
      org.opencontainers.image.description="Gradients of the mean squared error as a gRPC service, on the CPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${DEBIAN_IMAGE}" \
      org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && groupadd --gid 10001 mse-grad \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin mse-grad
COPY --from=build-cpu /opt/mse-grad /opt/mse-grad
# malloc keeps freed memory for the next message instead of returning it to the kernel.
ENV PATH=/opt/mse-grad/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_MMAP_THRESHOLD_=1073741824 \
    MALLOC_TRIM_THRESHOLD_=1073741824 \
    MALLOC_TOP_PAD_=67108864 \
    MALLOC_ARENA_MAX=1
USER 10001:10001
EXPOSE 50051 50052 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["mse-grad-server", "probe"]
ENTRYPOINT ["mse-grad-server"]

FROM ${CANN_BUILD_IMAGE} AS build-ascend
ARG CANN_FOLDER
ARG COMPUTE_UNIT=ascend910b
# hadolint ignore=DL3002
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ make \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
WORKDIR /src
COPY . .
# The toolkit's file needs bash. SHELL is no alternative, because images in OCI format lose it.
RUN bash -eo pipefail -c 'source deploy/cann_environment \
    && cmake -S op_host -B build/op_host -DASCEND_COMPUTE_UNIT="${COMPUTE_UNIT}" \
    && cmake --build build/op_host --target binary package \
    && bash build/op_host/custom_opp_*.run --install-path=/opt/mse-grad-op'
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --requirement deploy/requirements-build.txt \
    && MSE_GRAD_BUILD_KERNEL=require /opt/build/bin/python -m hatchling build --target wheel --directory /opt/wheel \
    && python3 -m venv /opt/mse-grad \
    && /opt/mse-grad/bin/pip install --no-cache-dir --require-hashes --requirement deploy/requirements.txt \
    && /opt/mse-grad/bin/pip install --no-cache-dir --no-index --no-deps /opt/wheel/*.whl \
    && /opt/mse-grad/bin/pip uninstall --yes pip setuptools \
    && install -m 644 deploy/cann_environment /opt/mse-grad/bin/cann_environment \
    && install -m 755 deploy/start_ascend /opt/mse-grad/bin/start_ascend

FROM ${CANN_IMAGE} AS ascend
ARG CANN_IMAGE
ARG VERSION=0.1.0
ARG REVISION
ARG CREATED
ARG SOURCE
ARG CANN_FOLDER
LABEL org.opencontainers.image.title="mse-grad" \
      org.opencontainers.image.description="Gradients of the mean squared error as a gRPC service, on Ascend NPUs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${CANN_IMAGE}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 0
RUN groupadd --gid 10001 mse-grad \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin mse-grad
COPY --from=build-ascend /opt/mse-grad-op /opt/mse-grad-op
COPY --from=build-ascend /opt/mse-grad /opt/mse-grad
# malloc keeps freed memory for the next message instead of returning it to the kernel. CANN writes logs, caches and work
# files: with a read-only root its folders have to be tmpfs.
ENV PATH=/opt/mse-grad/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_MMAP_THRESHOLD_=1073741824 \
    MALLOC_TRIM_THRESHOLD_=1073741824 \
    MALLOC_TOP_PAD_=67108864 \
    MALLOC_ARENA_MAX=1 \
    CANN_FOLDER=${CANN_FOLDER} \
    ASCEND_PROCESS_LOG_PATH=/run/ascend/log \
    ASCEND_CACHE_PATH=/run/ascend/cache \
    ASCEND_WORK_PATH=/run/ascend/work
USER 10001:10001
EXPOSE 50051 50052 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["mse-grad-server", "probe", "--backend", "ascend"]
ENTRYPOINT ["start_ascend"]
