"""CodedStore: codes stay consistent with images if a code set is created between two steps."""

from datetime import UTC, datetime

import numpy as np

from grpc_kit.deadline import Deadline
from search_service.core.coded_store import CodedStore, CodeWriter
from search_service.core.codes import CodeTransform
from search_service.core.types import CodeSet, StoredImage
from tests.memory_codes import MemoryCodes
from tests.memory_store import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_deletion_also_removes_codes_of_a_set_created_meanwhile(store: MemoryStore, deadline: Deadline) -> None:
    codes = MemoryCodes(store)
    writer = CodeWriter(codes)
    coded = CodedStore(store, codes, writer)
    image = StoredImage("a", vector=np.ones(4, np.float32), create_time=NOW, update_time=NOW)
    await coded.upsert(store.collection("photos"), [image], deadline)
    before = store.collection("photos")
    transform = CodeTransform(np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32))
    created = CodeSet(transform.version, 1, transform.bits, NOW)
    await codes.create(before, created, transform, deadline)
    await codes.announce(before, (created,), deadline)
    await writer.write(before, created, [image], deadline)
    await coded.delete(before, ["a"], deadline)
    assert codes.values(before, created) == {}
