"""Dates and times as attributes: strings in ISO 8601, whose order as strings is their order in time."""

import re
from datetime import UTC, date, datetime

DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)


def is_date(text: str) -> bool:
    """Return whether a string is a date or a time in ISO 8601, such as 2024-05-01 or 2024-05-01T10:00:00Z."""
    try:
        read_date(text)
    except ValueError:
        return False
    return True


def read_date(text: str) -> str:
    """Return the stored form of a date or time. Raises ValueError if the string is not a date or a time."""
    found = DATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r:.100} is not a date; write 2024-05-01 or 2024-05-01T10:00:00+02:00")
    try:
        return date_text(date.fromisoformat(text) if found[1] is None else datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r:.100} is a day or time that does not exist") from None


def date_text(moment: date | datetime) -> str:
    """Return the stored form of a date or time; a time with a zone is converted to UTC. Raises OverflowError."""
    if isinstance(moment, datetime) and moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.isoformat()
