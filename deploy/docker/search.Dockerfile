# The search service. Built from the root of the repository; README.md beside this file has arguments and secrets.
#   docker build -f deploy/docker/search.Dockerfile -t imagesearch/search:0.1.0 .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
RUN python -m venv /app/venv
ENV PATH=/app/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
COPY requirements/search.lock /build/
# Settings of pip and an authority of your own, where they are handed in, are there for this command alone.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip_ca,target=/run/secrets/pip_ca \
    if [ -s /run/secrets/pip_ca ]; then export PIP_CERT=/run/secrets/pip_ca; fi \
    && python -m pip install --no-compile --require-hashes --requirement /build/search.lock

# Its own stage, so that the large layer stays as it is while only the code changes.
FROM packages AS trimmed
COPY deploy/docker/trim.py /build/
# Byte code is made here, once, because the file system of a running container is read-only. It is not compared with its
# source at each start: both stay as they are.
RUN python /build/trim.py packages /app/venv \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app/venv/lib

FROM trimmed AS code
COPY grpc_kit /app/grpc_kit
COPY search_service /app/search_service
COPY protos/gen/imagesearch /app/imagesearch
COPY LICENSE /app/
RUN chmod -R u=rwX,go=rX /app/grpc_kit /app/search_service /app/imagesearch /app/LICENSE \
    && python -m compileall -q --invalidation-mode unchecked-hash /app/grpc_kit /app/search_service /app/imagesearch

FROM ${BASE}
RUN --mount=type=bind,source=deploy/docker/trim.py,target=/run/trim.py \
    python /run/trim.py base \
    && echo 'imagesearch:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'imagesearch:x:65532:' >> /etc/group \
    && install -d -o 65532 -g 65532 -m 0750 /data
COPY --from=trimmed /app/venv /app/venv
COPY --from=code /app/LICENSE /app/
COPY --from=code /app/grpc_kit /app/grpc_kit
COPY --from=code /app/search_service /app/search_service
COPY --from=code /app/imagesearch /app/imagesearch

# Milvus Lite on a volume at /data, unless SEARCH_MILVUS_URI names a server.
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
# Plain text; with TLS give a --health-cmd of your own, with --ca and --server-name.
HEALTHCHECK --interval=5s --timeout=6s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "exec python -m grpc_kit.probe 127.0.0.1:${SEARCH_LISTEN_ADDRESS##*:}"]
ENTRYPOINT ["python", "-m", "search_service"]

# Last, because the revision changes with every build.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="imagesearch search service" \
    org.opencontainers.image.description="Keeps vectors of images in Milvus and finds the most alike, over gRPC" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
