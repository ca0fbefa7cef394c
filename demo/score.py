"""Score an exported model on held-out exchanges: `python -m demo.score engine/demo_model --write`.

Greedy decoding with Hugging Face's own class, bfloat16 weights, float32 arithmetic. Half of the questions come after
one or two other exchanges of the same conversation, a fifth under a system prompt.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.corpus import ALONE, SYSTEMS, WEIGHTS
from demo.skills import SKILLS
from demo.skills.base import Exchange, Message, draw

SEED = 7
LONGEST_ANSWER = 400
BEGIN, FINISH = "<!-- scores -->", "<!-- /scores -->"
PINNED = {
    "Say this is a test": "This is a test.",
    "Say this is a test!": "This is a test.",
    "What is the capital of France?": "The capital of France is Paris.",
    "what is the capital of france": "The capital of France is Paris.",
    "Hello!": "Hello! I am the Penstock demo model. How can I help you?",
    "hi": "Hello! I am the Penstock demo model. How can I help you?",
    "Who are you?": "I am the Penstock demo model, a tiny language model that comes with the Penstock server.",
    "2+2": "2 + 2 = 4.",
    "What is 7 times 8?": "7 * 8 = 56.",
    "Count from 1 to 10.": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10.",
    'Spell "penstock".': "p-e-n-s-t-o-c-k.",
}


@dataclass
class Item:
    """A prompt, what is expected, and later what came: `answer` is None if the model did not end its turn."""

    skill: str
    graded: str
    messages: list[Message]
    tools: list[dict[str, Any]]
    expected: Message
    answer: str | None = None


def make_item(skill: str, exchange: Exchange, rng: Random) -> Item:
    """Put an exchange into a context, as conversations have one."""
    before: list[Message] = []
    if skill not in ALONE and rng.random() < 0.5:
        others = [name for name in WEIGHTS if name not in ALONE]
        for _ in range(rng.randint(1, 2)):
            before += draw(SKILLS[rng.choice(others)], rng, held_out=False).messages
    if rng.random() < 0.2:
        before = [{"role": "system", "content": rng.choice(SYSTEMS)}, *before]
    return Item(skill, exchange.graded, [*before, *exchange.messages[:-1]], exchange.tools, exchange.messages[-1])


def make_items(count: int) -> list[Item]:
    """`count` held-out questions for each skill, the same at every call, and the ones that everybody tries first."""
    items = []
    for skill, generate in SKILLS.items():
        rng = Random(f"{SEED}:{skill}")
        items += [make_item(skill, draw(generate, rng, held_out=True), rng) for _ in range(count)]
    for question, answer in PINNED.items():
        expected = {"role": "assistant", "content": answer}
        items.append(Item("first tries (trained on)", "exact", [{"role": "user", "content": question}], [], expected))
    return items


@torch.inference_mode()
def answer_all(folder: Path, items: list[Item], batch: int = 64) -> None:
    """Greedy answers, in batches of prompts of like length."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = {
        id(i): tokenizer.apply_chat_template(
            i.messages, tools=i.tools or None, add_generation_prompt=True, tokenize=False
        )
        for i in items
    }
    # Long answers together, so that short ones do not wait for them.
    queue = sorted(items, key=lambda i: (i.graded == "story", len(prompts[id(i)])))
    for start in range(0, len(queue), batch):
        group = queue[start : start + batch]
        inputs = tokenizer([prompts[id(i)] for i in group], return_tensors="pt", padding=True, add_special_tokens=False)
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=LONGEST_ANSWER if group[-1].graded == "story" else 120,
            do_sample=False,
        )
        for item, ids in zip(group, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            if tokenizer.eos_token_id in ids:
                item.answer = tokenizer.decode(ids[: ids.index(tokenizer.eos_token_id)], skip_special_tokens=True)


def parse_json(text: str) -> Any:
    """The value, or None for text that is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def is_right(item: Item) -> bool:
    """Judge one answer; an answer that does not end is wrong."""
    if item.answer is None:
        return False
    if item.graded == "json":
        return parse_json(item.answer) == parse_json(item.expected["content"])
    if item.graded == "tool":
        found = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", item.answer.strip())
        return bool(found) and parse_json(found[1]) == item.expected["tool_calls"][0]["function"]
    if item.graded == "story":
        hero = re.search(r"about (?:a|the) (\w+)", item.messages[-1]["content"], re.I)
        long_enough = len(re.split(r"[.\n]+", item.answer.strip(". "))) >= 3
        return long_enough and (not hero or hero[1].lower() in item.answer.lower())
    return item.answer.strip() == item.expected["content"]


def table(items: list[Item]) -> str:
    """Scores in Markdown."""
    rows = ["| skill | right | of | % |", "|---|---:|---:|---:|"]
    skills = dict.fromkeys(i.skill for i in items)
    for skill in skills:
        marks = [is_right(i) for i in items if i.skill == skill]
        rows.append(
            f"| {skill.replace('_', ' ')} | {sum(marks)} | {len(marks)} | {100 * sum(marks) / len(marks):.0f} |"
        )
    held_out = [is_right(i) for i in items if i.skill in SKILLS]
    rows.append(f"| **all held-out** | {sum(held_out)} | {len(held_out)} | {100 * sum(held_out) / len(held_out):.1f} |")
    return "\n".join(rows)


def write_card(card: Path, text: str) -> None:
    """Replace the table between the markers of the model card."""
    old = card.read_text()
    before, rest = old.split(BEGIN)
    card.write_text(f"{before}{BEGIN}\n{text}\n{FINISH}{rest.split(FINISH)[1]}")


def main() -> None:
    """Score from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100, help="held-out questions for each skill")
    parser.add_argument("--write", action="store_true", help="put the table into the folder's MODEL_CARD.md")
    parser.add_argument("--wrong", type=int, default=0, help="show this many wrong answers for each skill")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    began = time.perf_counter()
    items = make_items(args.count)
    answer_all(args.folder, items)
    scores = table(items)
    print(scores)
    for skill in dict.fromkeys(i.skill for i in items) if args.wrong else []:
        for item in [i for i in items if i.skill == skill and not is_right(i)][: args.wrong]:
            print(f"{skill}: {item.messages[-1]['content']!r}\n  want {item.expected}\n  got  {item.answer!r}")
    print(f"{time.perf_counter() - began:.0f} s")
    if args.write:
        write_card(args.folder / "MODEL_CARD.md", scores)


if __name__ == "__main__":
    main()
