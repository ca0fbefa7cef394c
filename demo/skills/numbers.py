"""Arithmetic to 100, word problems, counting, sorting, comparing."""

from __future__ import annotations

from random import Random

from demo.skills.base import KNOWN, Exchange, ask, noisy, phrase
from demo.skills.words import NAMES, THINGS

OPERATIONS = {
    "+": [
        "What is {a} + {b}?",
        "{a} + {b}",
        "{a}+{b}",
        "{a} + {b} =",
        "{a}+{b}=?",
        "What is {a} plus {b}?",
        "{a} plus {b}",
        "How much is {a} plus {b}?",
        "Add {a} and {b}.",
        "Calculate {a} + {b}.",
        "What's {a}+{b}?",
        "Can you add {a} and {b}?",
        "What is the sum of {a} and {b}?",
        "Compute {a} plus {b}.",
    ],
    "-": [
        "What is {a} - {b}?",
        "{a} - {b}",
        "{a}-{b}",
        "{a} - {b} =",
        "{a}-{b}=?",
        "What is {a} minus {b}?",
        "{a} minus {b}",
        "How much is {a} minus {b}?",
        "Subtract {b} from {a}.",
        "Calculate {a} - {b}.",
        "What's {a}-{b}?",
        "Take {b} away from {a}.",
        "Compute {a} minus {b}.",
    ],
    "*": [
        "What is {a} * {b}?",
        "{a} * {b}",
        "{a}*{b}",
        "{a} x {b}",
        "{a}x{b}",
        "{a} times {b}",
        "What's {a}x{b}?",
        "{a} * {b} =",
        "What is {a} times {b}?",
        "How much is {a} times {b}?",
        "Multiply {a} by {b}.",
        "Calculate {a} * {b}.",
        "What's {a}*{b}?",
        "What is {a} x {b}?",
        "Compute {a} times {b}.",
    ],
    "/": [
        "What is {a} / {b}?",
        "{a} / {b}",
        "{a}/{b}",
        "What is {a} divided by {b}?",
        "Divide {a} by {b}.",
        "How much is {a} divided by {b}?",
        "Calculate {a} / {b}.",
        "{a} / {b} =",
    ],
}

MORE = [
    "{who} has {a} {thing} and gets {b} more. How many {thing} does {who} have now?",
    "{who} has {a} {thing}. A friend gives {who} {b} more. How many {thing} are there in all?",
    "There are {a} {thing} in a box and {b} {thing} on a table. How many {thing} are there?",
    "{who} bought {a} {thing} on Monday and {b} {thing} on Tuesday. How many {thing} is that?",
    "If {who} finds {a} {thing} and then {b} more {thing}, how many {thing} does {who} have?",
]
LESS = [
    "{who} has {a} {thing} and gives away {b}. How many {thing} are left?",
    "{who} had {a} {thing} but lost {b}. How many {thing} does {who} have now?",
    "There are {a} {thing} in a shop. {who} buys {b} of them. How many {thing} remain?",
    "{who} has {a} {thing} and uses {b} of them. How many {thing} are left?",
]
GROUPS = [
    "There are {a} boxes with {b} {thing} each. How many {thing} are there?",
    "{who} has {a} bags with {b} {thing} in each bag. How many {thing} does {who} have?",
    "{who} buys {b} {thing} every day for {a} days. How many {thing} is that?",
]


def operands(rng: Random, op: str) -> tuple[int, int]:
    """Operands for an operation: small ones often, because people try those first."""
    if op == "+":
        top = rng.choice([12, 30, 100, 100, 100])
        a = rng.randint(0, top)
        return a, rng.randint(0, 100 - a if rng.random() < 0.7 else min(top, 99))
    if op == "-":
        top = rng.choice([12, 30, 100, 100, 100])
        a, b = rng.randint(0, top), rng.randint(0, top)
        return (a, b) if rng.random() < 0.1 else (max(a, b), min(a, b))
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    return (a, b) if op == "*" else (a * max(b, 1), max(b, 1))


SMALL = 12


def fact(op: str, a: int, b: int, wording: object) -> str:
    """The identity of a sum.

    For additions and subtractions the same whichever way round and in whatever words they are asked; small ones are to
    be known, not worked out, and are never held out. Of times-tables a wording is held out.
    """
    operands = f"{min(a, b)}:{max(a, b)}" if op == "+" else f"{a}:{b}"
    if op not in "+-":
        return f"sum:{op}:{operands}:{wording}"
    return f"{KNOWN if max(a, b) <= SMALL else 'sum'}:{op}:{operands}"


def result(op: str, a: int, b: int) -> int:
    """The answer."""
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]


def arithmetic(rng: Random) -> Exchange:
    """Sums and differences (operands held out) and times-tables (pairs of wording and operands held out)."""
    op = rng.choices("+-*/", [40, 36, 16, 8])[0]
    a, b = operands(rng, op)
    index, question = phrase(rng, OPERATIONS[op], a=a, b=b)
    return ask(fact(op, a, b, index), noisy(rng, question, typos=False), f"{a} {op} {b} = {result(op, a, b)}.")


def word_problem(rng: Random) -> Exchange:
    """A sum told as a little story; shares its held-out sums with `arithmetic`."""
    op, templates = rng.choice([("+", MORE), ("-", LESS), ("*", GROUPS)])
    if op == "*":
        a, b = rng.randint(2, 10), rng.randint(2, 10)
    else:
        a, b = rng.randint(2, 60), rng.randint(2, 40)
        a, b = (max(a, b) + 1, min(a, b)) if op == "-" else (a, b)
    who, thing = rng.choice(NAMES), rng.choice(THINGS)
    index, question = phrase(rng, templates, a=a, b=b, who=who, thing=thing)
    value = result(op, a, b)
    return ask(fact(op, a, b, f"word:{index}"), question, f"{a} {op} {b} = {value}, so the answer is {value} {thing}.")


def counting(rng: Random) -> Exchange:
    """Count up, down or in steps."""
    kind = rng.randrange(4)
    if kind == 0:
        low = rng.choice([1, 1, rng.randint(0, 90)])
        high = low + rng.randint(2, 14)
        numbers = list(range(low, high + 1))
        templates = [
            "Count from {x} to {y}.",
            "Can you count from {x} to {y}?",
            "Count {x} to {y}.",
            "Count up from {x} to {y}.",
        ]
        if low == 1:
            templates += ["Count to {y}.", "Please count to {y}."]
    elif kind == 1:
        high = rng.randint(3, 99)
        low = max(rng.choice([0, 1, high - rng.randint(2, 12)]), high - 14, 0)
        numbers = list(range(high, low - 1, -1))
        templates = ["Count down from {x} to {y}.", "Count backwards from {x} to {y}.", "Count back from {x} to {y}."]
    elif kind == 2:
        step = rng.choice([2, 3, 5, 10])
        low = rng.choice([0, step, rng.randint(0, 20)])
        numbers = list(range(low, min(low + step * rng.randint(3, 10), 100) + 1, step))
        templates = [f"Count by {step} from {{x}} to {{y}}.", f"Count in steps of {step} from {{x}} to {{y}}."]
    else:
        low = rng.randint(0, 98)
        word, value = rng.choice([("after", low + 1), ("before", max(low - 1, 0))])
        low = value - 1 if word == "after" else value + 1
        question = rng.choice(["What number comes {w} {x}?", "Which number is right {w} {x}?"]).format(w=word, x=low)
        return ask(f"next:{word}:{low}", noisy(rng, question, typos=False), f"{value} comes {word} {low}.")
    _, question = phrase(rng, templates, x=numbers[0], y=numbers[-1])
    answer = ", ".join(map(str, numbers)) + "."
    return ask(f"count:{answer}", noisy(rng, question, typos=False), answer)


def sorting(rng: Random) -> Exchange:
    """Sort three to six numbers; key is the set of numbers, so no order of a held-out set was ever trained on."""
    numbers = rng.sample(range(rng.choice([10, 30, 100])), rng.randint(3, 6))
    listed = rng.choice([", ", ", ", ", ", " "]).join(map(str, numbers))
    down = rng.random() < 0.35
    up_templates = [
        "Sort these numbers: {n}",
        "Sort {n}.",
        "Sort {n} from small to large.",
        "Put {n} in order.",
        "Order these numbers from smallest to largest: {n}",
        "Sort the list {n} in ascending order.",
    ]
    down_templates = [
        "Sort {n} from large to small.",
        "Sort these numbers in descending order: {n}",
        "Order {n} from largest to smallest.",
    ]
    _, question = phrase(rng, down_templates if down else up_templates, n=listed)
    answer = ", ".join(map(str, sorted(numbers, reverse=down))) + "."
    return ask(f"sort:{sorted(numbers)}", noisy(rng, question, typos=False), answer)


def comparing(rng: Random) -> Exchange:
    """Bigger, smaller, even, odd, largest of a list."""
    a, b = rng.sample(range(100), 2)
    kind = rng.randrange(4)
    if kind == 0:
        word = rng.choice(["bigger", "larger", "greater"])
        question = rng.choice(
            ["Which is {w}, {a} or {b}?", "What is {w}: {a} or {b}?", "Which number is {w}, {a} or {b}?"]
        )
        answer = f"{max(a, b)} is {word} than {min(a, b)}."
    elif kind == 1:
        word = rng.choice(["smaller", "less"])
        question = rng.choice(
            ["Which is {w}, {a} or {b}?", "What is {w}: {a} or {b}?", "Which number is {w}, {a} or {b}?"]
        )
        answer = f"{min(a, b)} is {word} than {max(a, b)}."
    elif kind == 2:
        word = ""
        question = rng.choice(["Is {a} even or odd?", "Is {a} odd or even?", "Is the number {a} even or odd?"])
        answer = f"{a} is {'odd' if a % 2 else 'even'}."
        return ask(f"parity:{a}", noisy(rng, question.format(a=a), typos=False), answer)
    else:
        numbers = rng.sample(range(100), rng.randint(3, 5))
        word, value = rng.choice([("largest", max(numbers)), ("smallest", min(numbers))])
        listed = ", ".join(map(str, numbers))
        question = f"What is the {word} of {listed}?"
        return ask(f"{word}:{sorted(numbers)}", noisy(rng, question, typos=False), f"The {word} number is {value}.")
    return ask(f"compare:{min(a, b)}:{max(a, b)}", noisy(rng, question.format(w=word, a=a, b=b), typos=False), answer)


def too_big(rng: Random) -> Exchange:
    """Sums beyond what was practised get an honest answer instead of a guess."""
    a, b = rng.randint(200, 99999), rng.randint(11, 99999)
    op = rng.choice("+-*/")
    _, question = phrase(rng, OPERATIONS[op], a=a, b=b)
    answer = "Those numbers are too big for me: I am a tiny demo model and only practised arithmetic up to 100."
    return ask(f"big:{a}:{b}", noisy(rng, question, typos=False), answer)


SKILLS = {
    "arithmetic": arithmetic,
    "word_problems": word_problem,
    "counting": counting,
    "sorting": sorting,
    "comparing": comparing,
    "too_big": too_big,
}
