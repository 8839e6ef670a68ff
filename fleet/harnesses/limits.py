"""Usage limits in a program's own words: that there is one, and when it ends. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LIMIT = re.compile(r"you['’]ve (?:hit|reached) your [\w .-]*limit|usage limit reached", re.IGNORECASE)
"""A usage limit, as Claude Code says it. A rate limit of the API reads otherwise."""

_ENDS = re.compile(r"\bresets (?:at )?", re.IGNORECASE)
_TIME = re.compile(
    r"(?:(?P<month>[a-z]{3})[a-z]* (?P<day>\d{1,2}),? (?:at )?)?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>[0-5]\d))? ?(?P<half>am|pm)?(?![:\w])\s*(?:\((?P<zone>[\w/+-]+)\))?",
    re.IGNORECASE,
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
HALF_A_YEAR = timedelta(days=180)


def resets_at(text: str, now: float) -> float | None:
    """When the limit that a text speaks of ends; `None` where it does not tell."""
    return next((at for found in _ENDS.finditer(text) if (at := parse_reset(text[found.end() :], now))), None)


def parse_reset(words: str, now: float) -> float | None:
    """The time that `9:20pm (UTC)` or `Nov 24, 10am (UTC)` speaks of: the next one from `now` on.

    `None` where the words name no time of day, or none that there is. Without a zone they are in the machine's own.
    """
    found = _TIME.match(words.strip())
    if found is None:
        return None
    hour = int(found["hour"])
    if found["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (found["half"].lower() == "pm")
    try:
        here = datetime.fromtimestamp(now, _zone(found["zone"]))
        at = here.replace(hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0)
        if found["month"]:
            month = _MONTHS.index(found["month"].lower()) + 1
            at = at.replace(month=month, day=int(found["day"]))
            # Said in December of a day in January. One that is just over is not one in a year.
            return (at if here - at < HALF_A_YEAR else at.replace(year=at.year + 1)).timestamp()
    except (ValueError, ZoneInfoNotFoundError):
        return None
    return (at if at >= here else at + timedelta(days=1)).timestamp()


def _zone(name: str | None) -> tzinfo | None:
    return UTC if name and name.upper() == "UTC" else ZoneInfo(name) if name else None
