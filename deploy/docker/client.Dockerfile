# The `imagesearch` command. Build it from the root of the repository. README.md describes arguments and secrets.
#   docker build -f deploy/docker/client.Dockerfile -t imagesearch/client:0.1.0 .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
RUN python -m venv /app/venv
ENV PATH=/app/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
COPY requirements/cli.lock /build/
# Only this command sees the secrets pip_conf and pip_ca.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=pip_ca,target=/run/secrets/pip_ca \
    if [ -s /run/secrets/pip_ca ]; then export PIP_CERT=/run/secrets/pip_ca; fi \
    && python -m pip install --no-compile --require-hashes --requirement /build/cli.lock

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
COPY imagesearch_client /code/imagesearch_client
COPY imagesearch_ingest /code/imagesearch_ingest
COPY imagesearch_analysis /code/imagesearch_analysis
COPY imagesearch_cli /code/imagesearch_cli
COPY protos/gen/imagesearch /code/imagesearch
COPY LICENSE /code/
COPY deploy/docker/imagesearch /code/venv/bin/
RUN chmod -R u=rwX,go=rX /code && chmod 0755 /code/venv/bin/imagesearch \
    && python -m compileall -q -s /code -p /app --invalidation-mode unchecked-hash /code

FROM ${BASE}
RUN --mount=type=bind,source=deploy/docker/trim.py,target=/run/trim.py \
    python /run/trim.py base \
    && echo 'imagesearch:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'imagesearch:x:65532:' >> /etc/group \
    && install -d -o 65532 -g 65532 -m 0750 /state
COPY --from=trimmed /app/venv /app/venv
COPY --from=code /code /app

# Ledgers are in /state. Mount a volume there, so that the next load can resume.
ENV PATH=/app/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/state \
    MPLCONFIGDIR=/state/matplotlib
WORKDIR /app
USER 65532:65532
STOPSIGNAL SIGTERM
# A command, not a server.
HEALTHCHECK NONE
ENTRYPOINT ["imagesearch"]

# Last, because the revision changes with each build.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="imagesearch client" \
    org.opencontainers.image.description="The imagesearch command: loads, searches, exports" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
