# The search service. Build it from the root of the repository. README.md describes arguments and secrets.
#   docker build -f deploy/docker/search.Dockerfile -t imagesearch/search:0.1.0 .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
RUN python -m venv /app/venv
ENV PATH=/app/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
COPY requirements/search.lock /build/
# Only this command sees the secrets pip_conf and pip_ca.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip_ca,target=/run/secrets/pip_ca \
    if [ -s /run/secrets/pip_ca ]; then export PIP_CERT=/run/secrets/pip_ca; fi \
    && python -m pip install --no-compile --require-hashes --requirement /build/search.lock

# A stage of its own: changes of the code do not rebuild this large layer.
FROM packages AS trimmed
COPY deploy/docker/trim.py /build/
# Compile once, because the file system of a container is read-only. unchecked-hash: Python does not compare the byte
# code with its source at each start.
RUN python /build/trim.py packages /app/venv \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app/venv/lib

FROM trimmed AS code
COPY grpc_kit /code/grpc_kit
COPY search_service /code/search_service
COPY protos/gen/imagesearch /code/imagesearch
COPY LICENSE /code/
RUN chmod -R u=rwX,go=rX /code && python -m compileall -q -s /code -p /app --invalidation-mode unchecked-hash /code

FROM ${BASE}
RUN --mount=type=bind,source=deploy/docker/trim.py,target=/run/trim.py \
    python /run/trim.py base \
    && echo 'imagesearch:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'imagesearch:x:65532:' >> /etc/group \
    && install -d -o 65532 -g 65532 -m 0750 /data
COPY --from=trimmed /app/venv /app/venv
COPY --from=code /code /app

# Milvus Lite on a volume at /data, unless SEARCH_MILVUS_URI is set to a server.
ENV PATH=/app/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SEARCH_LISTEN_ADDRESS=0.0.0.0:50052 \
    SEARCH_METRICS_ADDRESS=0.0.0.0:9464 \
    SEARCH_LOG_FORMAT=json \
    SEARCH_MILVUS_URI=/data/milvus.db
WORKDIR /app
USER 65532:65532
EXPOSE 50052 9464
STOPSIGNAL SIGTERM
# For plain text. With TLS, pass your own --health-cmd with --ca and --server-name.
HEALTHCHECK --interval=5s --timeout=6s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "exec python -m grpc_kit.probe 127.0.0.1:${SEARCH_LISTEN_ADDRESS##*:}"]
ENTRYPOINT ["python", "-m", "search_service"]

# Last, because the revision changes with each build.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="imagesearch search service" \
    org.opencontainers.image.description="Stores image vectors in Milvus and finds the most similar images, over gRPC" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
