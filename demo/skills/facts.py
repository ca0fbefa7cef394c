"""Closed lists: capitals, simple facts, opposites, animals. Held out: pairs of a fact and a phrasing."""

from __future__ import annotations

from random import Random

from demo.skills.base import Exchange, answers, articles, ask, noisy, phrase

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Poland": "Warsaw",
    "Greece": "Athens",
    "Ireland": "Dublin",
    "Hungary": "Budapest",
    "Belgium": "Brussels",
    "the Netherlands": "Amsterdam",
    "Switzerland": "Bern",
    "Ukraine": "Kyiv",
    "Russia": "Moscow",
    "Turkey": "Ankara",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Morocco": "Rabat",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "South Korea": "Seoul",
    "Indonesia": "Jakarta",
    "Australia": "Canberra",
    "New Zealand": "Wellington",
    "Canada": "Ottawa",
    "the United States": "Washington, D.C.",
    "Mexico": "Mexico City",
    "Brazil": "Brasilia",
    "Argentina": "Buenos Aires",
    "Chile": "Santiago",
    "Peru": "Lima",
    "Colombia": "Bogota",
    "Cuba": "Havana",
    "the United Kingdom": "London",
    "England": "London",
    "Scotland": "Edinburgh",
    "Iceland": "Reykjavik",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Croatia": "Zagreb",
    "Nigeria": "Abuja",
    "Iran": "Tehran",
}
CAPITAL_OF = [
    "What is the capital of {c}?",
    "What's the capital of {c}?",
    "Capital of {c}?",
    "Tell me the capital of {c}.",
    "Which city is the capital of {c}?",
    "Do you know the capital of {c}?",
    "Name the capital of {c}.",
    "What is the capital city of {c}?",
]
COUNTRY_OF = [
    "{t} is the capital of which country?",
    "Which country has {t} as its capital?",
    "What country is {t} the capital of?",
]

FACTS = answers(
    """\
The sky is blue.
? What color is the sky?| Which color does the sky have?| Tell me the color of the sky.

Grass is green.
? What color is grass?| Which color does grass have?| Tell me the color of grass.

Snow is white.
? What color is snow?| Which color does snow have?| Tell me the color of snow.

A banana is yellow.
? What color is a banana?| Which color does a banana have?| Tell me the color of a banana.

Jupiter is the largest planet.
? What is the largest planet?| Which planet is the biggest?| Name the largest planet.

Mercury is the smallest planet.
? What is the smallest planet?| Which planet is the smallest?| Name the smallest planet.

Mars is the red planet.
? Which planet is the red planet?| What is the red planet?| Name the red planet.

There are eight planets.
? How many planets are there?| How many planets does the Sun have?| Count the planets.

The Pacific is the largest ocean.
? What is the largest ocean?| Which ocean is the biggest?| Name the largest ocean.

Mount Everest is the highest mountain.
? What is the highest mountain?| Which mountain is the tallest?| Name the highest mountain.

The blue whale is the largest animal.
? What is the largest animal?| Which animal is the biggest?| Name the largest animal.

The cheetah is the fastest land animal.
? What is the fastest land animal?| Which animal runs fastest?| Name the fastest animal on land.

The giraffe is the tallest animal.
? What is the tallest animal?| Which animal is the tallest?| Name the tallest animal.

Water boils at 100 degrees Celsius at sea level.
? At what temperature does water boil?| When does water boil?| What is the boiling point of water?

Water freezes at 0 degrees Celsius.
? At what temperature does water freeze?| When does water freeze?| What is the freezing point of water?

Bees make honey.
? What do bees make?| Tell me what bees make.| Which food do bees make?

Cows give us milk.
? What do cows give us?| Which drink comes from cows?| What do we get from cows?

A spider has 8 legs.
? How many legs does a spider have?| Count the legs of a spider.| How many legs has a spider?

An ant has 6 legs.
? How many legs does an ant have?| Count the legs of an ant.| How many legs has an ant?

A dog has 4 legs.
? How many legs does a dog have?| Count the legs of a dog.| How many legs has a dog?

A bird has 2 legs.
? How many legs does a bird have?| Count the legs of a bird.| How many legs has a bird?

A triangle has 3 sides.
? How many sides does a triangle have?| Count the sides of a triangle.| How many sides has a triangle?

A square has 4 sides.
? How many sides does a square have?| Count the sides of a square.| How many sides has a square?

There are seven continents.
? How many continents are there?| How many continents does the Earth have?| Count the continents.

The English alphabet has 26 letters.
? How many letters are in the alphabet?| How many letters does the English alphabet have?| How long is the alphabet?

H2O is water.
? What is H2O?| What does H2O mean?| Which substance is H2O?

Ice is frozen water.
? What is ice made of?| Tell me what ice is made of.| What is frozen water called?

The sun rises in the east.
? Where does the sun rise?| In which direction does the sun rise?| Which way does the sun come up?

The sun sets in the west.
? Where does the sun set?| In which direction does the sun set?| Which way does the sun go down?

Blue and yellow make green.
? What color do you get from blue and yellow?| What do blue and yellow make?| Mix blue and yellow.

Red and blue make purple.
? What color do you get from red and blue?| What do red and blue make?| Mix red and blue.

Red and yellow make orange.
? What color do you get from red and yellow?| What do red and yellow make?| Mix red and yellow.

The Sun is the closest star to the Earth.
? What is the closest star?| Which star is nearest to the Earth?| Name the closest star to us.

The Moon goes around the Earth.
? What goes around the Earth?| Which body circles the Earth?| What orbits the Earth?
"""
)
SOUNDS = {
    "cow": "moo",
    "dog": "woof",
    "cat": "meow",
    "duck": "quack",
    "sheep": "baa",
    "pig": "oink",
    "owl": "hoot",
    "bee": "buzz",
    "lion": "roar",
    "snake": "hiss",
    "crow": "caw",
    "frog": "ribbit",
}
BABIES = {
    "cat": "kitten",
    "dog": "puppy",
    "cow": "calf",
    "sheep": "lamb",
    "horse": "foal",
    "duck": "duckling",
    "bear": "cub",
    "goat": "kid",
    "hen": "chick",
    "frog": "tadpole",
}
OPPOSITES = [
    pair.split("/")
    for pair in [
        "hot/cold",
        "big/small",
        "up/down",
        "left/right",
        "day/night",
        "black/white",
        "fast/slow",
        "high/low",
        "old/new",
        "open/closed",
        "happy/sad",
        "wet/dry",
        "full/empty",
        "hard/soft",
        "early/late",
        "rich/poor",
        "long/short",
        "loud/quiet",
        "light/dark",
        "strong/weak",
        "thick/thin",
        "near/far",
        "yes/no",
        "first/last",
        "good/bad",
        "true/false",
        "inside/outside",
        "clean/dirty",
        "easy/difficult",
        "above/below",
        "push/pull",
        "start/stop",
    ]
]


def capitals(rng: Random) -> Exchange:
    """Country to capital, and back."""
    country, town = rng.choice(list(CAPITALS.items()))
    if town != "London" and rng.random() < 0.25:
        index, question = phrase(rng, COUNTRY_OF, t=town)
        return ask(f"country:{town}:{index}", noisy(rng, question), f"{town} is the capital of {country}.")
    index, question = phrase(rng, CAPITAL_OF, c=country)
    # The question everybody asks first is never held out.
    key = "pinned" if country == "France" else f"capital:{country}:{index}"
    return ask(key, noisy(rng, question), f"The capital of {country} is {town.rstrip('.')}.")


def simple_facts(rng: Random) -> Exchange:
    """One-line facts, animals and opposites."""
    kind = rng.choices(["fact", "sound", "baby", "opposite"], [5, 1, 1, 3])[0]
    if kind == "fact":
        questions, answer = rng.choice(FACTS)
        index, question = phrase(rng, questions)
        key = f"fact:{answer}:{index}"
    elif kind == "sound":
        animal, sound = rng.choice(list(SOUNDS.items()))
        index, question = phrase(
            rng, ["What does a {a} say?", "What sound does a {a} make?", "Which sound does a {a} make?"], a=animal
        )
        question = articles(question)
        key, answer = f"sound:{animal}:{index}", f"The {animal} says {sound}."
    elif kind == "baby":
        animal, baby = rng.choice(list(BABIES.items()))
        index, question = phrase(
            rng, ["What is a baby {a} called?", "What do you call a baby {a}?", "What is a young {a} called?"], a=animal
        )
        key, answer = f"baby:{animal}:{index}", f"A baby {animal} is called a {baby}."
    else:
        pair = rng.choice(OPPOSITES)
        word, other = pair if rng.random() < 0.5 else reversed(pair)
        index, question = phrase(
            rng,
            [
                "What is the opposite of {w}?",
                "Opposite of {w}?",
                "What's the opposite of {w}?",
                "Tell me the opposite of {w}.",
            ],
            w=word,
        )
        key, answer = f"opposite:{word}:{index}", f"The opposite of {word} is {other}."
    return ask(key, noisy(rng, question), answer)


SKILLS = {"capitals": capitals, "simple_facts": simple_facts}
