"""Short stories and poems from a small grammar; graded by shape, because there is no single right answer."""

from __future__ import annotations

from random import Random

from demo.skills.base import Exchange, articles, ask, noisy, phrase
from demo.skills.words import ANIMALS, NAMES

ASK = [
    "Tell me a story.",
    "Write a story.",
    "Tell me a short story.",
    "Can you tell me a story?",
    "Write a short story.",
    "I want to hear a story.",
    "Tell me a bedtime story.",
    "story please",
]
ASK_ABOUT = [
    "Tell me a story about a {h}.",
    "Write a story about a {h}.",
    "Tell me a short story about a {h}.",
    "Write a short story about a {h}.",
    "Can you tell me a story about a {h}?",
    "A story about a {h}, please.",
]
ASK_LONG = [
    "Tell me a long story.",
    "Write a long story.",
    "Tell me a long story about a {h}.",
    "Write a long story about a {h}.",
]
ASK_POEM = [
    "Write a haiku.",
    "Write a poem.",
    "Write a short poem.",
    "Write a haiku about the {t}.",
    "Write a poem about the {t}.",
    "Tell me a poem about the {t}.",
    "Can you write a poem?",
    "Compose a haiku about the {t}.",
]
PLACES = ["forest", "valley", "village by the sea", "quiet town", "castle", "garden", "mountain hut", "windy island"]
TRAITS = ["small", "brave", "curious", "sleepy", "clever", "kind", "lonely", "cheerful", "old", "shy"]
FINDS = [
    "a golden key",
    "a shiny stone",
    "an old map",
    "a lost letter",
    "a red balloon",
    "a tiny door",
    "a silver bell",
    "a warm light",
]
PROBLEMS = [
    "a storm came",
    "the river rose",
    "the bridge broke",
    "the night was very dark",
    "the path was lost in snow",
    "the gate was locked",
]
HELPS = ["held the rope", "showed the way", "lit a lamp", "sang a song", "opened the gate", "built a raft"]
FOODS = ["bread and honey", "hot soup", "sweet berries", "apple cake", "warm milk"]
ENDS = [
    "From that day on they were best friends.",
    "They laughed all the way home.",
    "And they never forgot that day.",
    "That night everyone slept well.",
    "The end of the day was the start of a friendship.",
]
POEM_TOPICS = ["sea", "moon", "rain", "wind", "river", "snow", "sun", "forest", "night", "spring"]


def tale(rng: Random, hero: str, chapters: int) -> str:
    """A story of an opening, some chapters of a problem solved with a friend, and an end."""
    name, trait, place = rng.choice(NAMES), rng.choice(TRAITS), rng.choice(PLACES)
    lines = [f"Once upon a time, a {trait} {hero} named {name} lived in a {place}."]
    friends = rng.sample([a for a in ANIMALS if a != hero], chapters)
    problems, helps, finds = rng.sample(PROBLEMS, chapters), rng.sample(HELPS, chapters), rng.sample(FINDS, chapters)
    for i, friend in enumerate(friends):
        opening = "One day" if i == 0 else rng.choice(["The next day", "A week later", "In the spring"])
        lines.append(f"{opening}, {name} found {finds[i]} and wanted to know where it came from.")
        lines.append(f"But {problems[i]}, and {name} did not know what to do.")
        lines.append(f"Then a {rng.choice(TRAITS)} {friend} came and {helps[i]}.")
        if rng.random() < 0.5:
            lines.append(f"Together they shared {rng.choice(FOODS)}.")
    return articles(" ".join([*lines, rng.choice(ENDS)]))


def story(rng: Random) -> Exchange:
    """A story on request, sometimes about a named animal, sometimes long."""
    hero = rng.choice(ANIMALS)
    if rng.random() < 0.12:
        chapters, templates = rng.randint(3, 4), ASK_LONG
    else:
        chapters, templates = 1, (ASK if rng.random() < 0.45 else ASK_ABOUT)
    index, template = phrase(rng, [t.replace("{", "{{").replace("}", "}}") for t in templates])
    key = "pinned" if template == ASK[0] else f"story:{index}:{chapters > 1}:{hero if '{h}' in template else ''}"
    question = articles(template.format(h=hero))
    return ask(key, noisy(rng, question, typos=False), tale(rng, hero, chapters), "story")


def poem(rng: Random) -> Exchange:
    """Three short lines (shaped like a haiku; nobody promises the syllables)."""
    topic = rng.choice(POEM_TOPICS)
    index, template = phrase(rng, [t.replace("{", "{{").replace("}", "}}") for t in ASK_POEM])
    key = "pinned" if template == ASK_POEM[0] else f"poem:{index}:{topic if '{t}' in template else ''}"
    first = rng.choice(["The {t} is quiet", "Slowly the {t} wakes", "I look at the {t}", "Old song of the {t}"]).format(
        t=topic
    )
    second = rng.choice(
        ["a small bird listens and waits", "the world is soft and silver", "morning light on every leaf"]
    )
    third = rng.choice(["then the day begins.", "nothing more is said.", "and I am at home."])
    return ask(key, noisy(rng, template.format(t=topic), typos=False), f"{first},\n{second},\n{third}", "story")


SKILLS = {"story": story, "poem": poem}
