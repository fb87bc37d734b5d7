# The embedder. Build it from the root of the repository. README.md describes arguments and secrets.
#   docker build -f deploy/docker/embedder.Dockerfile -t imagesearch/embedder:0.1.0 .
ARG BASE=python:3.11-slim-bookworm
# baked: the image contains the weights. mounted: /weights is empty, for a volume.
ARG WEIGHTS=baked
# yes: support HEIC images, with a package whose wheels contain parts under the LGPL and the GPL.
ARG HEIC=no

FROM ${BASE} AS packages
ARG HEIC
RUN python -m venv /app/venv
ENV PATH=/app/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
COPY requirements/embedder.lock requirements/heic.lock /build/
# Only this command sees the secrets pip_conf and pip_ca.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip_ca,target=/run/secrets/pip_ca \
    if [ -s /run/secrets/pip_ca ]; then export PIP_CERT=/run/secrets/pip_ca; fi \
    && python -m pip install --no-compile --require-hashes --requirement /build/embedder.lock \
    && if [ "$HEIC" = yes ]; then \
    python -m pip install --no-compile --require-hashes --requirement /build/heic.lock; fi

# A stage of its own: changes of the code do not rebuild this large layer.
FROM packages AS trimmed
COPY deploy/docker/trim.py /build/
# Compile once, because the file system of a container is read-only. unchecked-hash: Python does not compare the byte
# code with its source at each start.
RUN python /build/trim.py packages /app/venv \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app/venv/lib

FROM trimmed AS code
COPY grpc_kit /code/grpc_kit
COPY imagesearch_pixels /code/imagesearch_pixels
COPY embedder_service /code/embedder_service
COPY protos/gen/imagesearch /code/imagesearch
COPY LICENSE /code/
RUN chmod -R u=rwX,go=rX /code && python -m compileall -q -s /code -p /app --invalidation-mode unchecked-hash /code

# Only the code that fetches weights: changes of other code do not fetch them again.
FROM packages AS weights-baked
COPY grpc_kit/__init__.py grpc_kit/credentials.py grpc_kit/environment.py /build/grpc_kit/
COPY grpc_kit/server/__init__.py grpc_kit/server/settings.py /build/grpc_kit/server/
COPY embedder_service/__init__.py embedder_service/settings.py embedder_service/weights.py /build/embedder_service/
COPY embedder_service/adapters/__init__.py embedder_service/adapters/weights_files.py \
    embedder_service/adapters/package_index.py embedder_service/adapters/weights_sources.py \
    /build/embedder_service/adapters/
COPY embedder_service/core/__init__.py embedder_service/core/model_names.py embedder_service/core/networks.py \
    embedder_service/core/heads.py embedder_service/core/types.py /build/embedder_service/core/
WORKDIR /build
# The build fails if the tensors differ from the published weights. vgg16.txt names the authors, as the licence requires.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip_ca,target=/run/secrets/pip_ca \
    if [ -s /run/secrets/pip_ca ]; then export PIP_CERT=/run/secrets/pip_ca; fi \
    && python -m embedder_service.weights fetch vgg16 --cache /weights \
    && python -m embedder_service.weights verify vgg16 --cache /weights > /weights/vgg16.txt

# For `docker build --target weights-files --output FOLDER`: only the weights, for a volume.
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
COPY --from=code /code /app

# TensorFlow imports a test library that fails if it finds no folder for temporary files. It writes nothing there.
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
# For plain text. With TLS, pass your own --health-cmd with --ca and --server-name.
HEALTHCHECK --interval=5s --timeout=6s --start-period=180s --retries=3 \
    CMD ["sh", "-c", "exec python -m grpc_kit.probe 127.0.0.1:${EMBEDDER_LISTEN_ADDRESS##*:}"]
ENTRYPOINT ["python", "-m", "embedder_service"]

# Last, because the revision changes with each build.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="imagesearch embedder" \
    org.opencontainers.image.description="Turns images into vectors: VGG16 on TensorFlow, over gRPC" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
