"""Inputs that are dates and times of day."""

from __future__ import annotations

import random
from datetime import date, timedelta

from t2l.tasks.suites.everyday.numbers import english, ordinal
from t2l.tasks.suites.everyday.tables import Item

MONTHS = "January February March April May June July August September October November December".split()
SEASONS = ("winter", "spring", "summer", "autumn")
FIRST_YEAR, LAST_YEAR = 1701, 2039
MINUTES_PER_DAY = 24 * 60


def _has_one_season(day: date) -> bool:
    """Whether the season of a day is the same by months and by the sun."""
    return day.month % 3 != 0 or day.day >= 25


def long_date(day: date) -> str:
    """A date like 5 March 1987."""
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def dates(rng: random.Random, count: int) -> list[Item]:
    """Days of the years 1701 to 2039, without years that end a century."""
    found: dict[str, Item] = {}
    while len(found) < count:
        start = date(rng.randint(FIRST_YEAR, LAST_YEAR), 1, 1)
        day = start + timedelta(rng.randrange(365))
        if day.year % 100 and _has_one_season(day):
            found.setdefault(long_date(day), _date(day))
    return list(found.values())


def _date(day: date) -> Item:
    month = MONTHS[day.month - 1]
    answers = {
        "iso": day.isoformat(),
        "us_slashes": f"{day.month:02d}/{day.day:02d}/{day.year}",
        "dotted": f"{day.day:02d}.{day.month:02d}.{day.year}",
        "year": str(day.year),
        "month_name": month,
        "day": str(day.day),
        "month_number": str(day.month),
        "next_day": long_date(day + timedelta(1)),
        "decade": f"{day.year // 10 * 10}s",
        "century": ordinal(day.year // 100 + 1),
        "season": SEASONS[day.month % 12 // 3],
        "quarter": f"Q{(day.month + 2) // 3}",
        "day_ordinal": ordinal(day.day),
        "month_short": month[:3],
    }
    return Item(long_date(day), answers)


def clock(minutes: int) -> str:
    """A time like 3:05 pm, from the minutes since midnight; days wrap around."""
    hour, minute = divmod(minutes % MINUTES_PER_DAY, 60)
    return f"{hour % 12 or 12}:{minute:02d} {'pm' if hour >= 12 else 'am'}"


def clock_words(minutes: int) -> str:
    """A time in words, like quarter to four; never a full hour."""
    hour, minute = divmod(minutes, 60)
    assert minute, "a full hour has no past and to"
    distance = min(minute, 60 - minute)
    name = {15: "quarter", 30: "half"}.get(distance) or english(distance)
    nearest = hour if minute <= 30 else hour + 1
    return f"{name} {'past' if minute <= 30 else 'to'} {english(nearest % 12 or 12)}"


def times(rng: random.Random, count: int) -> list[Item]:
    """Times at multiples of five minutes, without full hours."""
    pool = [m for m in range(0, MINUTES_PER_DAY, 5) if m % 60]
    return [_time(m) for m in rng.sample(pool, min(count, len(pool)))]


def _time(minutes: int) -> Item:
    hour, minute = divmod(minutes, 60)
    answers = {
        "to_24h": f"{hour:02d}:{minute:02d}",
        "spoken": clock_words(minutes),
        "hour": str(hour % 12 or 12),
        "minute": f"{minute:02d}",
        "hour_later": clock(minutes + 60),
        "hour_earlier": clock(minutes - 60),
        "half_hour_later": clock(minutes + 30),
        "minutes_left": str(60 - minute),
        "noon": "afternoon" if hour >= 12 else "morning",
        "opposite_half": clock(minutes + 12 * 60),
    }
    return Item(clock(minutes), answers)
