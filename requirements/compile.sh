#!/bin/sh
# Resolves pyproject.toml into locked requirement files: exact versions with hashes, no index addresses.
# usage: requirements/compile.sh [path to uv]
set -eu
cd "$(dirname "$0")/.."
uv=${1:-uv}
resolve() {
    out=$1
    shift
    "$uv" pip compile "$@" --universal --python-version 3.11 \
        --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --output-file "$out"
}
compile() {
    out=$1
    shift
    resolve "$out" pyproject.toml "$@"
}
compile requirements/dev.lock --extra embedder --extra search --extra cli --extra analysis --extra umap --extra training \
    --extra s3 --extra gcs --extra heic --extra demo --extra dev
# One lock for each image, held to the versions that the tests run with.
for extra in embedder search; do
    compile "requirements/$extra.lock" --extra "$extra" --constraint requirements/dev.lock
done
compile requirements/cli.lock --extra cli --extra s3 --extra gcs --constraint requirements/dev.lock
# What an image with HEIC has beside the embedder.
echo "pillow-heif" | resolve requirements/heic.lock - --constraint requirements/dev.lock
# What `make demo` and `make up` install: no tools, and hatchling to install the project itself.
echo "hatchling" | resolve requirements/run.lock pyproject.toml - --extra embedder --extra search --extra cli \
    --extra analysis --extra demo --constraint requirements/dev.lock
# The installer of all of these.
echo "uv" | resolve requirements/installer.lock - --constraint requirements/dev.lock
# checkov has so many requirements that it has an environment of its own.
echo "checkov>=3.3" | resolve requirements/checkov.lock -
# The tools of the site have an environment of their own too: nothing else needs them.
printf '%s\n' "mkdocs>=1.6,<2" "mkdocs-material>=9.6" "mkdocstrings[python]>=1" | resolve requirements/docs.lock -
