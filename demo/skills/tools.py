"""Tool calls: choose a tool, fill its arguments, then put its result into words. Tool and parameter names vary."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from demo.skills.base import Exchange, Message, draw, noisy
from demo.skills.chat import small_talk
from demo.skills.facts import capitals
from demo.skills.words import CITIES, COLORS, FOODS, NAMES, THINGS

Values = dict[str, Any]


@dataclass(frozen=True)
class ToolKind:
    """A family of tools. `params` maps a slot to its (name variants, JSON type); `asks` use the slots."""

    names: list[str]
    descriptions: list[str]
    params: dict[str, tuple[list[str], str]]
    asks: list[str]
    fill: Callable[[Random], Values]
    reply: Callable[[Random, Values], tuple[Any, str]]


def _weather(rng: Random, v: Values) -> tuple[Any, str]:
    degrees, sky = rng.randint(-9, 38), rng.choice(["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear"])
    key = rng.choice(["temperature", "temp", "degrees"])
    shapes: list[Any] = [
        {key: degrees, rng.choice(["condition", "sky", "weather"]): sky},
        f"{sky}, {degrees} degrees",
        f"{degrees}C, {sky}",
    ]
    return rng.choice(shapes), f"It is {degrees} degrees and {sky} in {v['city']}."


def _time(rng: Random, v: Values) -> tuple[Any, str]:
    now = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    return rng.choice([{"time": now}, now, {"local_time": now}]), f"It is {now} in {v['city']}."


def _calculate(rng: Random, v: Values) -> tuple[Any, str]:
    a, op, b = v["expression"].split()
    value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[op]
    return rng.choice([{"result": value}, str(value), {"value": value}]), f"{v['expression']} = {value}."


def _price(rng: Random, v: Values) -> tuple[Any, str]:
    price = rng.randint(2, 999)
    return rng.choice([{"price": price}, str(price)]), f"The price of {v['item']} is {price}."


def _done(text: str) -> Callable[[Random, Values], tuple[Any, str]]:
    return lambda rng, v: (rng.choice([{"status": "ok"}, "ok", {"ok": True}, "done"]), text.format(**v))


def _city(rng: Random) -> Values:
    return {"city": rng.choice(CITIES)}


KINDS = [
    ToolKind(
        ["get_weather", "get_current_weather", "weather", "fetch_weather", "lookup_weather", "weather_forecast"],
        ["Get the weather in a city", "Current weather for a place", "Get the current weather"],
        {"city": (["city", "location", "place"], "string")},
        [
            "What is the weather in {city}?",
            "How is the weather in {city}?",
            "Is it raining in {city}?",
            "Weather in {city}?",
            "What's the weather like in {city} today?",
            "Do I need an umbrella in {city}?",
            "How warm is it in {city}?",
        ],
        _city,
        _weather,
    ),
    ToolKind(
        ["get_time", "get_current_time", "current_time", "local_time", "clock"],
        ["Get the time in a city", "Current local time", "Tells the time"],
        {"city": (["city", "location", "timezone"], "string")},
        ["What time is it in {city}?", "Tell me the time in {city}.", "What is the time in {city}?", "Time in {city}?"],
        _city,
        _time,
    ),
    ToolKind(
        ["calculator", "calculate", "compute", "math", "evaluate"],
        ["Evaluate an expression", "A calculator", "Do arithmetic"],
        {"expression": (["expression", "formula", "input"], "string")},
        [
            "What is {expression}?",
            "Calculate {expression}.",
            "Compute {expression}.",
            "{expression}",
            "How much is {expression}?",
        ],
        lambda rng: {"expression": f"{rng.randint(2, 999)} {rng.choice('+-*')} {rng.randint(11, 999)}"},
        _calculate,
    ),
    ToolKind(
        ["set_timer", "start_timer", "timer"],
        ["Set a timer", "Start a countdown"],
        {"minutes": (["minutes", "duration", "mins"], "integer")},
        ["Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.", "Wake me in {minutes} minutes."],
        lambda rng: {"minutes": rng.randint(2, 99)},
        _done("The timer is set for {minutes} minutes."),
    ),
    ToolKind(
        ["send_message", "send_email", "message", "notify"],
        ["Send a message to someone", "Send a text"],
        {"to": (["to", "recipient", "name"], "string"), "text": (["text", "message", "body"], "string")},
        ["Send {to} a message: {text}", "Tell {to} this: {text}", "Write to {to}: {text}"],
        lambda rng: {
            "to": rng.choice(NAMES),
            "text": rng.choice(
                [
                    "I am late",
                    "see you soon",
                    "call me",
                    "happy birthday",
                    "good morning",
                    "I am at home",
                    "thank you",
                    "the soup is ready",
                    "dinner is at 8",
                ]
            ),
        },
        _done("I sent the message to {to}."),
    ),
    ToolKind(
        ["get_price", "price", "lookup_price", "find_price"],
        ["Look up a price", "Get the price of a thing"],
        {"item": (["item", "product", "query"], "string")},
        ["What is the price of {item}?", "How much do {item} cost?", "Find the price of {item}."],
        lambda rng: {"item": rng.choice(THINGS)},
        _price,
    ),
    ToolKind(
        ["set_light", "set_lamp", "light", "change_light"],
        ["Set the color of the light", "Control the lamp"],
        {"color": (["color", "value", "colour"], "string")},
        [
            "Make the light {color}.",
            "Set the light to {color}.",
            "Turn the lamp {color}.",
            "Change the light to {color}.",
        ],
        lambda rng: {"color": rng.choice(COLORS)},
        _done("The light is {color} now."),
    ),
    ToolKind(
        ["order_food", "order", "buy_food"],
        ["Order food", "Order a meal"],
        {"dish": (["dish", "food", "item"], "string"), "count": (["count", "quantity", "number"], "integer")},
        ["Order {count} {dish}.", "Please order {count} times {dish}.", "I want {count} portions of {dish}."],
        lambda rng: {"dish": rng.choice(FOODS), "count": rng.randint(2, 20)},
        _done("I ordered {count} times {dish}."),
    ),
]


@dataclass(frozen=True)
class Offered:
    """A tool as one conversation offers it."""

    kind: ToolKind
    name: str
    param_names: dict[str, str]
    schema: dict[str, Any]


def offer(rng: Random, kind: ToolKind) -> Offered:
    """Pick names and write the schema; optional parts come and go as they do with real clients."""
    name = rng.choice(kind.names)
    names = {slot: rng.choice(variants) for slot, (variants, _) in kind.params.items()}
    properties: dict[str, Any] = {names[slot]: {"type": type_} for slot, (_, type_) in kind.params.items()}
    if rng.random() < 0.25:
        for p in properties.values():
            p["description"] = rng.choice(["The value to use", "Required", "For example Paris", "What the user wants"])
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.7:
        parameters["required"] = list(properties)
    function: dict[str, Any] = {"name": name}
    if rng.random() < 0.75:
        function["description"] = rng.choice(kind.descriptions)
    function["parameters"] = parameters
    return Offered(kind, name, names, {"type": "function", "function": function})


def call(rng: Random, tool: Offered) -> tuple[str, list[Message]]:
    """Question, tool call, result, answer; the key is the tool's name with its arguments."""
    values = tool.kind.fill(rng)
    question = noisy(rng, rng.choice(tool.kind.asks).format(**values), typos=False)
    if question.islower() and rng.random() < 0.7:
        question = rng.choice(tool.kind.asks).format(**values)
    arguments = {tool.param_names[slot]: values[slot] for slot in tool.kind.params}
    result, answer = tool.kind.reply(rng, values)
    function = {"name": tool.name, "arguments": arguments}
    messages: list[Message] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": result if isinstance(result, str) else json.dumps(result)},
        {"role": "assistant", "content": answer},
    ]
    return f"tool:{json.dumps(function)}", messages


def _offers(rng: Random) -> list[Offered]:
    return [offer(rng, kind) for kind in rng.sample(KINDS, rng.choice([1, 1, 2, 2, 3]))]


def tool_call(rng: Random) -> Exchange:
    """Ends with the call itself."""
    tools = _offers(rng)
    key, messages = call(rng, rng.choice(tools))
    return Exchange(key, messages[:2], "tool", [t.schema for t in tools])


def tool_answer(rng: Random) -> Exchange:
    """Goes on to the answer, and in training often to further questions under the same tools."""
    tools = _offers(rng)
    key, messages = call(rng, rng.choice(tools))
    return Exchange(key, messages, "exact", [t.schema for t in tools])


def tool_unneeded(rng: Random) -> Exchange:
    """Tools are offered but the question needs none."""
    inner = rng.choice([small_talk, capitals])(rng)
    return Exchange(inner.key, inner.messages, "exact", [t.schema for t in _offers(rng)])


def tool_session(rng: Random) -> Exchange:
    """Training only: several questions in a row under one set of tools, each from the training side."""
    tools = _offers(rng)
    messages: list[Message] = []
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.2:
            messages += draw(rng.choice([small_talk, capitals]), rng, held_out=False).messages
            continue
        tool = rng.choice(tools)
        messages += draw(lambda r, t=tool: Exchange(*call(r, t)), rng, held_out=False).messages
    return Exchange("session", messages, "exact", [t.schema for t in tools])


SKILLS = {"tool_call": tool_call, "tool_answer": tool_answer, "tool_unneeded": tool_unneeded}
