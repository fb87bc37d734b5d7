# The `imagesearch` command. Built from the root of the repository; README.md beside this file has arguments and secrets.
#   docker build -f deploy/docker/client.Dockerfile -t imagesearch/client:0.1.0 .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
RUN python -m venv /app/venv
ENV PATH=/app/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
COPY requirements/client.lock /build/
# Settings of pip and an authority of your own, where they are handed in, are there for this command alone.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip_ca,target=/run/secrets/pip_ca \
    if [ -s /run/secrets/pip_ca ]; then export PIP_CERT=/run/secrets/pip_ca; fi \
    && python -m pip install --no-compile --require-hashes --requirement /build/client.lock

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
COPY imagesearch_client /app/imagesearch_client
COPY imagesearch_ingest /app/imagesearch_ingest
COPY imagesearch_analysis /app/imagesearch_analysis
COPY imagesearch_cli /app/imagesearch_cli
COPY protos/gen/imagesearch /app/imagesearch
COPY LICENSE /app/
COPY --chmod=0755 deploy/docker/imagesearch /app/venv/bin/
RUN chmod -R u=rwX,go=rX /app/grpc_kit /app/imagesearch* /app/LICENSE \
    && python -m compileall -q --invalidation-mode unchecked-hash /app/grpc_kit /app/imagesearch*

FROM ${BASE}
RUN --mount=type=bind,source=deploy/docker/trim.py,target=/run/trim.py \
    python /run/trim.py base \
    && echo 'imagesearch:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'imagesearch:x:65532:' >> /etc/group \
    && install -d -o 65532 -g 65532 -m 0750 /state
COPY --from=trimmed /app/venv /app/venv
COPY --from=code /app/LICENSE /app/
COPY --from=code /app/venv/bin/imagesearch /app/venv/bin/
COPY --from=code /app/grpc_kit /app/grpc_kit
COPY --from=code /app/imagesearch_pixels /app/imagesearch_pixels
COPY --from=code /app/imagesearch_client /app/imagesearch_client
COPY --from=code /app/imagesearch_ingest /app/imagesearch_ingest
COPY --from=code /app/imagesearch_analysis /app/imagesearch_analysis
COPY --from=code /app/imagesearch_cli /app/imagesearch_cli
COPY --from=code /app/imagesearch /app/imagesearch

# Ledgers are below /state: give it a volume, so that the next load goes on where this one ended.
ENV PATH=/app/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/state \
    MPLCONFIGDIR=/state/matplotlib
WORKDIR /app
USER 65532:65532
STOPSIGNAL SIGTERM
# It ends by itself; there is nothing to ask.
HEALTHCHECK NONE
ENTRYPOINT ["imagesearch"]

# Last, because the revision changes with every build.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="imagesearch client" \
    org.opencontainers.image.description="The imagesearch command: loads, searches, exports" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
