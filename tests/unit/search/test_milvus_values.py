"""The values for Milvus' Helm chart, and the settings of a search service that calls that Milvus."""

import shutil
from pathlib import Path

import pytest

from deploy.checks import milvus

PLAIN = {"SEARCH_MILVUS_URI": "http://milvus.milvus.svc:19530"}
SECURE = {"SEARCH_MILVUS_URI": "https://milvus.milvus.svc:19530", "SEARCH_MILVUS_CA": "/milvus-tls/ca.crt"}


@pytest.mark.parametrize("settings", [PLAIN, SECURE])
def test_accepts_settings_that_fit_the_values(settings: dict[str, str]) -> None:
    assert list(milvus.problems(settings)) == []


def test_reports_tls_without_authority() -> None:
    (problem,) = milvus.problems({"SEARCH_MILVUS_URI": SECURE["SEARCH_MILVUS_URI"]})
    assert problem.startswith("SEARCH_MILVUS_CA is missing")


@pytest.mark.parametrize(
    ("name", "right", "wrong", "problem"),
    [
        ("values-tls.yaml", "tlsMode: 1", "tlsMode: 0", "tlsMode must be 1 or 2"),
        ("values-tls.yaml", "authorizationEnabled: true", "authorizationEnabled: false", "must have all of values"),
        ("values-tls.yaml", "mountPath: /milvus/tls", "mountPath: /tls", "serverPemPath /milvus/tls/tls.crt is on no"),
        (
            "values.yaml",
            "authorizationEnabled: true",
            "authorizationEnabled: false",
            "authorizationEnabled must be true",
        ),
    ],
)
def test_reports_values_that_do_not_fit(
    name: str, right: str, wrong: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for values in milvus.FOLDER.glob("values*.yaml"):
        shutil.copy(values, tmp_path)
    content = (tmp_path / name).read_text()
    assert content.count(right) == 1
    (tmp_path / name).write_text(content.replace(right, wrong))
    monkeypatch.setattr(milvus, "FOLDER", tmp_path)
    assert problem in "\n".join(milvus.problems(SECURE))
