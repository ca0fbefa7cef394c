"""Days and months, and amounts in other units. Held out: pairs of a fact and a phrasing of its question."""

from __future__ import annotations

from random import Random

from demo.skills.base import Exchange, answers, ask, noisy, phrase

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
LENGTHS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]

# unit, plural or symbol of the other unit, factor, largest amount asked for
UNITS = [
    ("km", "m", 1000, 60),
    ("m", "cm", 100, 60),
    ("cm", "mm", 10, 99),
    ("kg", "g", 1000, 60),
    ("hours", "minutes", 60, 12),
    ("minutes", "seconds", 60, 12),
    ("days", "hours", 24, 7),
    ("weeks", "days", 7, 12),
    ("years", "months", 12, 12),
    ("feet", "inches", 12, 12),
    ("euros", "cents", 100, 60),
    ("liters", "ml", 1000, 60),
    ("dozen", "pieces", 12, 12),
    ("dollars", "cents", 100, 60),
]
CONVERT = [
    "Convert {n} {a} to {b}.",
    "How many {b} are in {n} {a}?",
    "How many {b} are {n} {a}?",
    "What is {n} {a} in {b}?",
    "{n} {a} in {b}",
    "{n} {a} to {b}",
    "Change {n} {a} into {b}.",
]
LONG = {
    "km": "kilometers",
    "m": "meters",
    "cm": "centimeters",
    "mm": "millimeters",
    "kg": "kilograms",
    "g": "grams",
    "ml": "milliliters",
}


NEIGHBOURS = ["What {u} comes {w} {x}?", "Which {u} is {w} {x}?", "What {u} is {w} {x}?", "Tell me the {u} {w} {x}."]
AHEAD = ["If today is {x}, what day is it {w}?", "Today is {x}. What day is it {w}?", "It is {x}. Which day is it {w}?"]
LENGTH = ["How many days are in {m}?", "How many days does {m} have?", "How long is {m}?"]
PLACE = ["What is the {o} {u} of the {p}?", "Which {u} is the {o} of the {p}?", "Name the {o} {u} of the {p}."]
PERIODS = answers(
    """\
Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.
? List the days of the week.| What are the days of the week?| Name the days of the week.

January, February, March, April, May, June, July, August, September, October, November, December.
? List the months of the year.| What are the months?| Name all twelve months.

A week has 7 days.
? How many days are in a week?| How many days does a week have?| Count the days in a week.

A year has 12 months.
? How many months are in a year?| How many months does a year have?| Count the months in a year.

A year has 365 days, or 366 in a leap year.
? How many days are in a year?| How many days does a year have?| How long is a year?

A minute has 60 seconds.
? How many seconds are in a minute?| How long is a minute?| How many seconds does a minute have?

Spring, summer, autumn and winter.
? Name the four seasons.| What are the seasons?| List the seasons.
"""
)


def _neighbour(rng: Random) -> tuple[str, str, int]:
    cycle, unit = rng.choice([(DAYS, "day"), (MONTHS, "month")])
    i = rng.randrange(len(cycle))
    word, other = rng.choice([("after", cycle[(i + 1) % len(cycle)]), ("before", cycle[i - 1])])
    index, question = phrase(rng, NEIGHBOURS, u=unit, w=word, x=cycle[i])
    return question, f"{other} comes {word} {cycle[i]}.", index


def _length(rng: Random) -> tuple[str, str, int]:
    i = rng.randrange(12)
    index, question = phrase(rng, LENGTH, m=MONTHS[i])
    answer = f"{MONTHS[i]} has {LENGTHS[i]} days." if i != 1 else "February has 28 days, or 29 in a leap year."
    return question, answer, index


def _place(rng: Random) -> tuple[str, str, int]:
    cycle, unit, period = rng.choice([(DAYS, "day", "week"), (MONTHS, "month", "year")])
    i = rng.randrange(len(cycle))
    index, question = phrase(rng, PLACE, o=ORDINALS[i], u=unit, p=period)
    return question, f"The {ORDINALS[i]} {unit} of the {period} is {cycle[i]}.", index


def _period(rng: Random) -> tuple[str, str, int]:
    questions, answer = rng.choice(PERIODS)
    index, question = phrase(rng, questions)
    return question, answer, index


def _ahead(rng: Random) -> Exchange:
    i, n = rng.randrange(7), rng.randint(1, 7)
    when = "in 1 day" if n == 1 else f"in {n} days"
    if n == 1 and rng.random() < 0.5:
        when = "tomorrow"
    index, question = phrase(rng, AHEAD, x=DAYS[i], w=when)
    return ask(f"ahead:{DAYS[i]}:{index * 100 + n}", noisy(rng, question), f"It is {DAYS[(i + n) % 7]} {when}.")


def calendar(rng: Random) -> Exchange:
    """Days and months: neighbours, order, lengths and a few days ahead."""
    kind = rng.choices(["next", "ahead", "length", "place", "list"], [5, 4, 3, 4, 2])[0]
    if kind == "ahead":
        return _ahead(rng)
    question, answer, index = {"next": _neighbour, "length": _length, "place": _place, "list": _period}[kind](rng)
    return ask(f"{kind}:{answer}:{index}", noisy(rng, question), answer)


def units(rng: Random) -> Exchange:
    """Whole amounts of a larger unit in a smaller one."""
    a, b, factor, top = rng.choice(UNITS)
    n = rng.randint(2, top)
    shown_a, shown_b = (LONG.get(a, a), LONG.get(b, b)) if rng.random() < 0.5 else (a, b)
    index, question = phrase(rng, CONVERT, n=n, a=shown_a, b=shown_b)
    return ask(f"unit:{a}:{n}:{index}", noisy(rng, question, typos=False), f"{n} {shown_a} = {n * factor} {shown_b}.")


SKILLS = {"calendar": calendar, "units": units}
