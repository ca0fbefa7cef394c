"""The skill families; each module offers `SKILLS`, a table from a skill's name to its generator."""

from demo.skills import chat, dates, facts, letters, numbers, penstock, stories, structured, tools
from demo.skills.base import Generator

SKILLS: dict[str, Generator] = {
    name: generate
    for module in (numbers, letters, facts, dates, penstock, chat, structured, tools, stories)
    for name, generate in module.SKILLS.items()
}
