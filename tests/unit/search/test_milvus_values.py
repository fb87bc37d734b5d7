"""The values for Milvus' Helm chart, and the settings of a search service that calls that Milvus."""

import shutil
from pathlib import Path

import pytest

from deploy.checks import milvus

PLAIN = {"SEARCH_MILVUS_URI": "http://milvus.milvus.svc:19530"}
SECURE = {"SEARCH_MILVUS_URI": "https://milvus.milvus.svc:19530", "SEARCH_MILVUS_CA": "/milvus-tls/ca.crt"}


@pytest.mark.parametrize("settings", [PLAIN, SECURE])
def test_the_values_fit_the_settings(settings: dict[str, str]) -> None:
    assert list(milvus.problems(settings)) == []


def test_tls_without_the_authority_is_noticed() -> None:
    (problem,) = milvus.problems({"SEARCH_MILVUS_URI": SECURE["SEARCH_MILVUS_URI"]})
    assert problem.startswith("SEARCH_MILVUS_CA is missing")


@pytest.mark.parametrize(
    ("name", "right", "wrong", "problem"),
    [
        ("values-tls.yaml", "tlsMode: 1", "tlsMode: 0", "tlsMode should be 1 or 2"),
        ("values-tls.yaml", "authorizationEnabled: true", "authorizationEnabled: false", "should be that of values"),
        ("values-tls.yaml", "mountPath: /milvus/tls", "mountPath: /tls", "serverPemPath /milvus/tls/tls.crt is in no"),
        ("values.yaml", "authorizationEnabled: true", "authorizationEnabled: false", "everybody may do everything"),
    ],
)
def test_values_that_do_not_fit_are_noticed(
    name: str, right: str, wrong: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for values in milvus.FOLDER.glob("values*.yaml"):
        shutil.copy(values, tmp_path)
    content = (tmp_path / name).read_text()
    assert content.count(right) == 1
    (tmp_path / name).write_text(content.replace(right, wrong))
    monkeypatch.setattr(milvus, "FOLDER", tmp_path)
    assert problem in "\n".join(milvus.problems(SECURE))
