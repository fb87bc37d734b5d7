"""Loads of random folders, lists, manifests and archives: every entry is stored, reported or counted, and only once.

To load two thousand:
`pytest tests/integration/ingest/test_random_sources.py -m soak --random-sources 2000 --timeout 5400`
"""

from pathlib import Path

import pytest

from imagesearch_client import Client
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.items import SourceError
from imagesearch_ingest.sources.uri_reader import UriReader
from tests.harness.random_sources import Expected, RandomSource, digest, random_source
from tests.integration.ingest.conftest import Run

FEW = 48
NO_LIMIT = 10**9


def problems_of(report: LoadReport, source: RandomSource) -> list[str]:
    """Return what is inconsistent in a report, or differs from the source."""
    expected = source.expected
    wanted = {"listed": expected.listed, "failed": expected.failed}
    if source.counts_files:
        wanted |= {
            "unsupported": expected.unsupported,
            "system_files": expected.system_files,
            "other_files": expected.other_files,
        }
    found = report.as_json()
    problems = [f"{name} is {found[name]}, not {value}" for name, value in wanted.items() if found[name] != value]
    done = report.stored + report.updated + report.skipped + report.duplicates + report.failed
    if done != report.listed:
        problems.append(f"{report.listed} listed, {done} finished")
    if report.stopped:
        problems.append(f"stopped: {report.stopped}")
    return [f"{problem} ({dict(report.reasons)})" for problem in problems]


def differences(client: Client, name: str, expected: Expected) -> list[str]:
    """Return the differences between the stored and the expected images."""
    images = {image.id: image for image in client.list(name, strong=True)}
    found = [f"{image_id!r} is not stored" for image_id in expected.stored.keys() - images.keys()]
    found += [f"{image_id!r} is stored" for image_id in images.keys() - expected.stored.keys()]
    with UriReader() as reader:
        for image_id in images.keys() & expected.stored.keys():
            image, (sha256, attributes) = images[image_id], expected.stored[image_id]
            if image.content_sha256 != sha256:
                found.append(f"{image_id!r} has the content of another file")
            if digest(reader.read(image.uri, NO_LIMIT)) != sha256:
                found.append(f"{image.uri!r} names another file than was stored as {image_id!r}")
            if dict(image.attributes) != dict(attributes):
                found.append(f"{image_id!r} has the attributes {dict(image.attributes)}, not {dict(attributes)}")
    return found


def check(seed: int, folder: Path, run: Run, client: Client, name: str) -> list[str]:
    """Load the source of a seed twice, and then with `prune`; return the problems."""
    folder.mkdir()
    source = random_source(seed, folder)
    ledger = folder.with_suffix(".ledger")
    try:
        first = run(source.argument, ledger=ledger)
    except SourceError as error:
        return [f"seed {seed}, {source.argument}: refused: {error}"]
    problems = problems_of(first, source) + differences(client, name, source.expected)
    before = {image.id: image.update_time for image in client.list(name, strong=True)}
    for options in ({}, {"prune": True}):
        again = run(source.argument, ledger=ledger, **options)
        changes = (again.stored, again.updated, again.duplicates, again.removed)
        if changes != (0, 0, 0, 0):
            problems.append(f"a further run with {options} stored, described, set aside and removed {changes}")
        if (again.listed, again.failed) != (first.listed, first.failed):
            problems.append(f"a further run with {options} listed {again.listed}, of which {again.failed} failed")
    if {image.id: image.update_time for image in client.list(name, strong=True)} != before:
        problems.append("a further run wrote images again")
    if before:
        client.delete(name, sorted(before))
    return [f"seed {seed}, {source.argument}: {problem}" for problem in problems]


@pytest.mark.timeout(300)
def test_random_sources_are_accounted_for(run: Run, client: Client, name: str, tmp_path: Path) -> None:
    problems = [problem for seed in range(FEW) for problem in check(seed, tmp_path / str(seed), run, client, name)]
    assert not problems, "\n".join(problems)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_random_sources_are_accounted_for(
    run: Run, client: Client, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    count = int(request.config.getoption("--random-sources"))
    problems = [
        problem for seed in range(FEW, FEW + count) for problem in check(seed, tmp_path / str(seed), run, client, name)
    ]
    assert not problems, "\n".join(problems)
