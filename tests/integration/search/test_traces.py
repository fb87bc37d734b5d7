"""One trace has a search, its call to the embedder, and its time in Milvus."""

from pathlib import Path

import pytest

from imagesearch_client import Client, NewImage
from tests.collector import collecting
from tests.harness.processes import EmbedderProcess, SearchProcess


def test_search_by_image_is_one_trace_over_both_services_and_milvus(
    photographs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = photographs["coffee"].read_bytes()
    with collecting() as collector:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_EXPORTER_OTLP_INSECURE": "true"}
        for name, value in traced.items():
            monkeypatch.setenv(name, value)
        embedder = EmbedderProcess(tmp_path / "e.log", models="mobilenet", max_batch_size="1")
        uri = str(tmp_path / "milvus.db")
        search = SearchProcess(tmp_path / "s.log", milvus_uri=uri, embedder_target=embedder.address)
        with embedder, search, Client(search.address, timeout=60) as client:
            client.create_collection("c")
            (result,) = client.write("c", [NewImage("a", picture)])
            assert result.error is None
            assert [hit.image.id for hit in client.search_by_image("c", picture)] == ["a"]
        # A service sends its remaining spans when it stops.
        (searching,) = collector.named("imagesearch.search.v1.SearchService/Search")
        whole = {span.name: span for span in collector.spans if span.trace_id == searching.trace_id}
    embedding = whole["imagesearch.embedder.v1.EmbedderService/Embed"]
    assert embedding.parent_span_id == searching.span_id
    for stage in ("embed", "store"):
        assert whole[stage].parent_span_id == searching.span_id
        # Inside the search by the clock, with a margin for clock differences.
        assert whole[stage].start_time_unix_nano >= searching.start_time_unix_nano - 1_000_000
        assert whole[stage].end_time_unix_nano <= searching.end_time_unix_nano + 1_000_000
    assert whole["embed"].end_time_unix_nano <= whole["store"].start_time_unix_nano + 1_000_000
    assert {span.name for span in collector.spans if span.parent_span_id == embedding.span_id}
