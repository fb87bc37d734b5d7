"""Both services on one machine: errors are reported before the start."""

from pathlib import Path

import pytest

from demo.local_stack import StartError, local_stack


@pytest.mark.parametrize("name", ["EMBEDDER_TLS_CERTIFICATE", "SEARCH_TLS_CERTIFICATE"])
def test_services_with_tls_are_not_started(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "server.pem")
    with pytest.raises(StartError, match=f"cannot use TLS: unset {name}"), local_stack(tmp_path):
        pass
