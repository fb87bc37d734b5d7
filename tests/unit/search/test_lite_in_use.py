"""Whether Milvus Lite's folder is open in another process."""

from pathlib import Path

import pytest

from grpc_kit.deadline import Deadline
from search_service.adapters.lite_files import check_unused
from search_service.adapters.milvus_store import MilvusStore


async def test_an_open_folder_is_refused_and_a_closed_one_is_not(tmp_path: Path) -> None:
    uri = str(tmp_path / "milvus.db")
    for _ in range(2):
        # The second time it can be opened: the check holds nothing itself.
        store = MilvusStore(uri)
        await store.check(Deadline.after(30))
        with pytest.raises(OSError, match=r"milvus\.db: it is open in another process"):
            check_unused(uri)
        await store.close()
        check_unused(uri)


@pytest.mark.parametrize("uri", ["new/milvus.db", "http://127.0.0.1:19530"])
def test_nothing_is_made_where_nothing_is(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_unused(uri)
    assert list(tmp_path.iterdir()) == []
