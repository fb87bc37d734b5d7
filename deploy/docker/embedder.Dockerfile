# The embedder. Built from the root of the repository; README.md beside this file has arguments and secrets.
#   docker build -f deploy/docker/embedder.Dockerfile -t imagesearch/embedder:0.1.0 .
ARG BASE=python:3.11-slim-bookworm
# baked: the weights are in the image. mounted: /weights is empty, for a volume.
ARG WEIGHTS=baked
# yes: HEIC images are taken, by a package whose wheels have parts under the LGPL and the GPL.
ARG HEIC=no

FROM ${BASE} AS packages
ARG HEIC
RUN python -m venv /app/venv
ENV PATH=/app/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
COPY requirements/embedder.lock requirements/heic.lock /build/
# Settings of pip and an authority of your own, where they are handed in, are there for this command alone.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip_ca,target=/run/secrets/pip_ca \
    if [ -s /run/secrets/pip_ca ]; then export PIP_CERT=/run/secrets/pip_ca; fi \
    && python -m pip install --no-compile --require-hashes --requirement /build/embedder.lock \
    && if [ "$HEIC" = yes ]; then \
    python -m pip install --no-compile --require-hashes --requirement /build/heic.lock; fi

# Its own stage, so that the large layer stays as it is while only the code changes.
FROM packages AS trimmed
COPY deploy/docker/trim.py /build/
# Byte code is made here, once, because the file system of a running container is read-only. It is not compared with its
# source at each start: both stay as they are.
RUN python /build/trim.py packages /app/venv \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app/venv/lib

FROM trimmed AS code
COPY grpc_kit /app/grpc_kit
COPY imagesearch_pixels /app/imagesearch_pixels
COPY embedder_service /app/embedder_service
COPY protos/gen/imagesearch /app/imagesearch
COPY LICENSE /app/
RUN chmod -R u=rwX,go=rX /app/grpc_kit /app/imagesearch_pixels /app/embedder_service /app/imagesearch /app/LICENSE \
    && python -m compileall -q --invalidation-mode unchecked-hash \
        /app/grpc_kit /app/imagesearch_pixels /app/embedder_service /app/imagesearch

# Only what fetches: other changes of the code do not fetch again.
FROM packages AS weights-baked
COPY grpc_kit/__init__.py grpc_kit/credentials.py grpc_kit/environment.py grpc_kit/server/settings.py /build/grpc_kit/
COPY embedder_service/__init__.py embedder_service/settings.py embedder_service/weights.py /build/embedder_service/
COPY embedder_service/adapters/__init__.py embedder_service/adapters/weights.py \
    embedder_service/adapters/package_index.py embedder_service/adapters/weight_sources.py \
    /build/embedder_service/adapters/
COPY embedder_service/core/__init__.py embedder_service/core/model_names.py embedder_service/core/networks.py \
    embedder_service/core/pooling.py embedder_service/core/types.py /build/embedder_service/core/
WORKDIR /build
# Ends the build where the tensors are not the published ones. The text says whose they are, as their licence asks.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip_ca,target=/run/secrets/pip_ca \
    if [ -s /run/secrets/pip_ca ]; then export PIP_CERT=/run/secrets/pip_ca; fi \
    && python -m embedder_service.weights fetch vgg16 --cache /weights \
    && python -m embedder_service.weights verify vgg16 --cache /weights > /weights/vgg16.txt

# For `docker build --target weights-files --output FOLDER`: the weights alone, to be put on a volume.
FROM scratch AS weights-files
COPY --from=weights-baked /weights /

FROM packages AS weights-mounted
RUN mkdir /weights

# hadolint ignore=DL3006
FROM weights-${WEIGHTS} AS weights

FROM ${BASE}
RUN --mount=type=bind,source=deploy/docker/trim.py,target=/run/trim.py \
    python /run/trim.py base \
    && echo 'imagesearch:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'imagesearch:x:65532:' >> /etc/group
COPY --from=trimmed /app/venv /app/venv
COPY --from=weights /weights /weights
COPY --from=code /app/LICENSE /app/
COPY --from=code /app/grpc_kit /app/grpc_kit
COPY --from=code /app/imagesearch_pixels /app/imagesearch_pixels
COPY --from=code /app/embedder_service /app/embedder_service
COPY --from=code /app/imagesearch /app/imagesearch

# TensorFlow imports a test library, which asks for a folder for temporary files when nobody names one, and ends where
# there is none; it writes nothing there.
ENV PATH=/app/venv/bin:$PATH \
    TEST_TMPDIR=/tmp \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    EMBEDDER_LISTEN_ADDRESS=0.0.0.0:50051 \
    EMBEDDER_METRICS_ADDRESS=0.0.0.0:9464 \
    EMBEDDER_LOG_FORMAT=json \
    EMBEDDER_WEIGHTS=/weights/vgg16.h5
WORKDIR /app
USER 65532:65532
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
# Plain text; with TLS give a --health-cmd of your own, with --ca and --server-name.
HEALTHCHECK --interval=5s --timeout=6s --start-period=180s --retries=3 \
    CMD ["sh", "-c", "exec python -m grpc_kit.probe 127.0.0.1:${EMBEDDER_LISTEN_ADDRESS##*:}"]
ENTRYPOINT ["python", "-m", "embedder_service"]

# Last, because the revision changes with every build.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="imagesearch embedder" \
    org.opencontainers.image.description="Turns images into vectors: VGG16 on TensorFlow, over gRPC" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
