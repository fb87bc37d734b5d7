"""The messages and reasons that the runbook and the page on troubleshooting name."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TROUBLESHOOT = (ROOT / "docs/operate/troubleshoot.md").read_text()
ALERTS = (ROOT / "docs/operate/alerts.md").read_text()
HEALTH = (ROOT / "docs/operate/health.md").read_text()
PACKAGES = ("embedder_service", "search_service", "grpc_kit", "demo")
CODE = "".join(path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_pages_quote_messages_of_the_code() -> None:
    rows = TROUBLESHOOT.partition("## The service does not start")[2].partition("\n## ")[0].splitlines()
    quoted = re.findall(r"`([^`]*)`", "\n".join(row.split("|")[1] for row in rows if row.startswith("| `")))
    for page in (TROUBLESHOOT, ALERTS, HEALTH):
        quoted += re.findall(r"log(?:s| has| repeats| for)?[^`|\n]{0,40}`([A-Za-z]+(?: [a-z]+)+)`", page)
    messages = {message.strip(". ") for message in quoted if " " in message.strip(". ")}
    assert len(messages) > 6
    assert {message for message in messages if message not in CODE} == set()


def test_pages_name_reasons_of_the_api() -> None:
    api = (ROOT / "docs/reference/api.md").read_text()
    reasons = set(re.findall(r"^\| `([A-Z]+_?[A-Z_]+)`", TROUBLESHOOT, flags=re.MULTILINE))
    reasons |= set(re.findall(r"^- `([A-Z]+_[A-Z]+)`", ALERTS, flags=re.MULTILINE))
    assert len(reasons) > 15
    assert {reason for reason in reasons if f"`{reason}`" not in api} == set()
