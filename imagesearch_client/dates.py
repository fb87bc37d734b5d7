"""Dates and times as attributes: texts of ISO 8601, whose order as texts is their order in time."""

import re
from datetime import UTC, date, datetime

DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)


def is_date(text: str) -> bool:
    """Return whether a text is a date or a time of ISO 8601, such as 2024-05-01 or 2024-05-01T10:00:00Z."""
    try:
        read_date(text)
    except ValueError:
        return False
    return True


def read_date(text: str) -> str:
    """Return a date or time in the form that it is stored in. Raises ValueError if it is none."""
    found = DATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r:.100} is no date; 2024-05-01 and 2024-05-01T10:00:00+02:00 are")
    try:
        return date_text(date.fromisoformat(text) if found[1] is None else datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r:.100} is no day or time that there is") from None


def date_text(moment: date | datetime) -> str:
    """Return the text that a date or time is stored as; a time with a zone becomes one of UTC. Raises OverflowError."""
    if isinstance(moment, datetime) and moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.isoformat()
