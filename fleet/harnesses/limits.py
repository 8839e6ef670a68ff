"""Usage limits in a program's own words: when they end. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LIMIT = re.compile(
    r"you['’]ve (?:hit|reached) your [\w .-]*limit|usage limit reached|limit reached ∙ resets|out of extra usage",
    re.IGNORECASE,
)
"""A usage limit, as Claude Code says it; a rate limit of the API reads otherwise."""

CONTINUES = re.compile(r"continuing automatically at", re.IGNORECASE)
"""The program waits for the limit's end and goes on by itself."""

_END = re.compile(
    r"(?:resets|continuing automatically)(?: at)? "
    r"(?:(?P<month>[A-Z][a-z]{2}) (?P<day>\d{1,2})(?:,| at)? )?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))? ?(?P<half>am|pm)"
    r"(?: \((?P<zone>[\w/+-]+)\))?",
    re.IGNORECASE,
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def resets_at(text: str, now: float) -> float | None:
    """When a limit ends by the program's words, the next such time after `now`; `None` where they do not tell.

    A time without a zone is the program's local time, which its words do not give away: `None`.
    """
    for found in _END.finditer(text):
        zone = _zone(found["zone"])
        if zone is None:
            continue
        here = datetime.fromtimestamp(now, zone)
        hour = int(found["hour"]) % 12 + (12 if found["half"].lower() == "pm" else 0)
        at = here.replace(hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0)
        if found["month"]:
            return _dated(at, found["month"], int(found["day"]), here)
        return (at if at > here else at + timedelta(days=1)).timestamp()
    return None


def _zone(name: str | None) -> ZoneInfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _dated(at: datetime, month: str, day: int, here: datetime) -> float | None:
    if month.lower() not in _MONTHS:
        return None
    try:
        at = at.replace(month=_MONTHS.index(month.lower()) + 1, day=day)
        # Said in December of a day in January; a limit that ended a moment ago is not one in a year.
        return (at if here - at < timedelta(days=180) else at.replace(year=at.year + 1)).timestamp()
    except ValueError:
        return None
