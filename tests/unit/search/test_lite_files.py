"""Check whether another process has opened the folder of Milvus Lite."""

from pathlib import Path

import pytest

from grpc_kit.deadline import Deadline
from search_service.adapters.lite_files import check_unused
from search_service.adapters.milvus_store import MilvusStore


async def test_start_rejects_only_a_folder_in_use(tmp_path: Path) -> None:
    uri = str(tmp_path / "milvus.db")
    for _ in range(2):
        # The second pass shows that the check itself keeps no lock.
        store = MilvusStore(uri)
        await store.check(Deadline.after(30))
        with pytest.raises(OSError, match=r"milvus\.db: it is open in another process"):
            check_unused(uri)
        await store.close()
        check_unused(uri)


@pytest.mark.parametrize("uri", ["new/milvus.db", "http://127.0.0.1:19530"])
def test_check_of_a_missing_folder_creates_nothing(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_unused(uri)
    assert list(tmp_path.iterdir()) == []
