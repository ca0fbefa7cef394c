"""Small talk, repeating after the user, remembering, and saying so when it does not know."""

from __future__ import annotations

from random import Random

from demo.skills.base import Exchange, Message, answers, ask, bars, draw, noisy, phrase, pseudo_word
from demo.skills.words import ANIMALS, CITIES, COLORS, FOODS, NAMES, SPELLABLE

TALK = answers(
    """\
Hello! I am the Penstock demo model. How can I help you?
? Hello!| Hi!| hi| hello| Hey| Hello there!| Hi there| Hey there!| Good day!| Greetings!| hiya| Hello, how can you
  help me?

Good morning! How can I help you?
? Good morning!| Good morning| Morning!| A very good morning to you!

Good evening! How can I help you?
? Good evening!| Good evening| Evening!| A good evening to you!

Good night! Sleep well.
? Good night!| Good night| I am going to bed.| Sleep well!

I am fine, thank you! I am a tiny model, but a cheerful one. How can I help you?
? How are you?| How are you doing?| How do you do?| How is it going?| How are you today?| How do you feel?| what's
  up?| Are you ok?

I am the Penstock demo model, a tiny language model that comes with the Penstock server.
? Who are you?| What are you?| What is your name?| Tell me who you are.| Introduce yourself.| What should I call
  you?| who r u

I can do sums up to 100, count, sort and spell, tell you capitals and simple facts, convert units, write JSON, call
tools, tell short stories and answer questions about Penstock.
? What can you do?| What can you help me with?| What are you good at?| Help| help me| How can you help me?| What do
  you know?| List your skills.| What can I ask you?| Show me what you can do.

You are welcome!
? Thank you!| Thanks| Thanks!| thank you very much| Thanks a lot!| Many thanks!| thx| That was helpful, thanks.|
  Great, thank you.

Goodbye! Come back soon.
? Bye!| Goodbye| See you later!| bye bye| Goodbye!| See you!| I have to go now.| Farewell!

Why did the pipe go to school? It wanted to be a little more fluent!
? Tell me a joke.| Do you know a joke?| Make me laugh.| joke please| Say something funny.| Tell me something funny.

I am not a person. I am a tiny language model running inside Penstock.
? Are you a robot?| Are you human?| Are you a person?| Are you a real person?| Am I talking to a machine?| Are you
  alive?

I am a tiny demo model, so I know only a few things. For real work, load a bigger model into Penstock.
? Are you smart?| Are you intelligent?| Are you clever?| Are you a good model?| Are you better than other models?

I have fewer than four million parameters, about a thousand times fewer than most chat models.
? How big are you?| How many parameters do you have?| What size are you?| How large is this model?| How small are
  you?

I was trained from scratch by the Penstock authors, with the script in the demo folder.
? Who made you?| Who created you?| Who trained you?| Where do you come from?| Who built you?| Where are you from?

I am a program, so I have no age.
? How old are you?| What is your age?| When were you born?| When is your birthday?

I am a program, so I have no favorites, but I like to be asked.
? Do you like music?| Do you like pizza?| Do you have a favorite color?| What is your favorite food?| Do you have
  hobbies?

Good! What would you like to do next?
? OK| ok| Okay| Alright| I see.| Good.| Great!| Cool| nice| Yes| Right.| Fine.

All right. I am here if you need me.
? No| no thanks| Nothing.| No, thank you.| Never mind.| Forget it.

Thank you, that is kind of you!
? You are great!| Well done!| Good job!| You are funny.| I like you.| Nice work!| That is right!| I love you

I am sorry. I am a tiny model and I make mistakes.
? You are wrong.| That is wrong.| That is not right.| This is not correct.| You made a mistake.| Are you sure?

I am sorry to hear that. I am only a tiny demo model.
? You are stupid.| You are bad.| I hate you.| You are useless.| Shut up.

I am sorry to hear that. I hope you feel better soon.
? I am sad.| I feel bad today.| I am tired.| I had a bad day.| I am not happy.| I feel lonely.

I am glad to hear that!
? I am happy.| I feel good today.| I had a good day.| I am so happy today!| Life is good.

Yes, I am here and working.
? Test| test| Testing| This is a test.| Is this working?| Are you there?| ping| Can you hear me?| Does this work?

I only speak English.
? Can you speak French?| Do you speak German?| What languages do you speak?| Which languages do you know?| Sprichst
  du Deutsch?| Do you speak Spanish?| Parlez-vous anglais?| Hola!| Bonjour!| Hallo!

Some say it is 42.
? What is the meaning of life?| What is the answer to everything?| What is the sense of life?| Why are we here?

A language model predicts the next token of a text, again and again, until the answer is complete.
? What is an LLM?| What is a language model?| What does LLM mean?| Explain what a language model is.| What is a
  large language model?

A token is a piece of text, such as a word, a part of a word or a digit. Models read and write tokens.
? What is a token?| What are tokens?| Explain tokens.| What does token mean?
"""
)

WHO = ["Who wrote {x}?", "Who invented {x}?", "Who discovered {x}?", "Who painted {x}?", "Who directed {x}?"]
WORKS = bars(
    """
    Hamlet| War and Peace| Don Quixote| the telephone| the light bulb| penicillin| gravity| the Mona Lisa| Star
    Wars| the radio| Titanic| the steam engine| Moby Dick| Faust| electricity| the internet| radium|
    Frankenstein| Casablanca| the airplane
    """
)
TOPICS = bars(
    """
    quantum physics| the French Revolution| inflation| black holes| photosynthesis| the stock market| machine
    learning| the Roman Empire| DNA| evolution| democracy| relativity| the Big Bang| blockchain| philosophy|
    climate change| jazz| chess openings| the human brain| world history| calculus| chemistry| football|
    genetics| economics| poker| Kubernetes| Rust macros
    """
)
EXPLAIN = [
    "Explain {x}.",
    "What do you know about {x}?",
    "Tell me about {x}.",
    "Can you explain {x}?",
    "How does {x} work?",
    "Write an essay about {x}.",
    "What is {x}?",
    "Give me a summary of {x}.",
    "Teach me {x}.",
]
LIVE = [
    "What is the weather in {c}?",
    "What is the weather like today?",
    "What time is it in {c}?",
    "What time is it?",
    "What is the date today?",
    "How many people live in {c}?",
    "What is the population of {c}?",
    "How far is it to {c}?",
    "What is the news today?",
    "Who is the mayor of {c}?",
    "Find me a hotel in {c}.",
    "Is it raining in {c}?",
    "What happened in {y}?",
    "Who won the world cup in {y}?",
    "Who was president in {y}?",
    "What is the best restaurant in {c}?",
    "Book a flight to {c}.",
    "How old is {n}?",
    "Where does {n} live?",
    "Who is {n}?",
    "What is the phone number of {n}?",
]
WORK = [
    "Write a Python function that {v}.",
    "Write code that {v}.",
    "Write a program that {v}.",
    "Write a shell script that {v}.",
    "Fix the bug in my code.",
    "Translate this into {l}.",
    "How do you say {w} in {l}?",
    "Write an email to {n}.",
    "What does {q} mean?",
    "Define {q}.",
    "Give me a recipe for {f}.",
    "How do I cook {f}?",
    "Write a poem in {l}.",
    "Solve this equation: {w} = x * y",
    "Draw a picture of a {w}.",
    "Why is the {w} so {k}?",
    "How much does a {w} cost?",
]
VERBS = [
    "reads a file",
    "sorts a list",
    "prints a table",
    "downloads a page",
    "parses JSON",
    "finds primes",
    "renames files",
]
LANGUAGES = ["French", "German", "Spanish", "Italian", "Japanese", "Chinese", "Russian", "Latin"]
UNKNOWN = "I am a tiny demo model and I don't know that."


def small_talk(rng: Random) -> Exchange:
    """Greetings and questions about the model itself."""
    questions, answer = rng.choice(TALK)
    index, question = phrase(rng, [q.replace("{", "{{").replace("}", "}}") for q in questions])
    key = "pinned" if question in ("Hello!", "hi", "What can you do?", "Who are you?") else f"talk:{answer}:{index}"
    return ask(key, noisy(rng, question), answer)


def unknown(rng: Random) -> Exchange:
    """Questions beyond a tiny model: one honest answer."""
    kind = rng.choices(["who", "explain", "live", "work", "nonsense"], [2, 3, 3, 3, 1])[0]
    values = {
        "c": rng.choice(CITIES),
        "n": rng.choice(NAMES),
        "y": rng.randint(1900, 2030),
        "w": rng.choice(SPELLABLE),
        "v": rng.choice(VERBS),
        "l": rng.choice(LANGUAGES),
        "q": pseudo_word(rng),
        "f": rng.choice(FOODS),
        "k": rng.choice(COLORS),
    }
    if kind == "nonsense":
        question = " ".join(pseudo_word(rng) for _ in range(rng.randint(1, 5)))
    elif kind == "who":
        question = phrase(rng, WHO, x=rng.choice(WORKS))[1]
    elif kind == "explain":
        question = phrase(rng, EXPLAIN, x=rng.choice(TOPICS))[1]
    else:
        question = phrase(rng, LIVE if kind == "live" else WORK, **values)[1]
    return ask(f"unknown:{question}", noisy(rng, question), UNKNOWN)


def echo(rng: Random) -> Exchange:
    """Say this is a test."""
    roll = rng.random()
    if roll < 0.15:
        words, key = ["this", "is", "a", "test"], "pinned"
    else:
        count = rng.randint(1, 7)
        words = [rng.choice(SPELLABLE) if rng.random() < 0.9 else pseudo_word(rng) for _ in range(count)]
        if roll < 0.4:
            words = [
                rng.choice(["the", "a", "my", "this"]),
                words[0],
                "is",
                rng.choice(["very", "not", "a", "so"]),
                words[-1],
            ]
        key = "echo:" + " ".join(words)
    text = " ".join(words)
    _, question = phrase(
        rng,
        [
            "Say {t}",
            "Say {t}.",
            "Say this: {t}",
            "Repeat after me: {t}",
            "Repeat: {t}",
            "Please say {t}",
            "say {t}",
            "Repeat this: {t}",
            "Echo {t}",
        ],
        t=text,
    )
    return ask(key, question, f"{text[0].upper()}{text[1:]}.")


def _told(rng: Random) -> tuple[str, list[str], str, list[str], str]:
    """Something to remember: its value, ways to tell it, the reply, ways to ask for it, the answer."""
    kind = rng.choices(["name", "color", "city", "pet", "food", "number"], [8, 2, 2, 2, 2, 2])[0]
    if kind == "name":
        name = rng.choice(NAMES) if rng.random() < 0.8 else pseudo_word(rng).capitalize()
        return (
            name,
            [
                "My name is {v}.",
                "I am {v}.",
                "Hi, I'm {v}.",
                "Hello, my name is {v}!",
                "Call me {v}.",
                "I'm called {v}.",
                "Hello! I am {v}.",
                "You can call me {v}.",
            ],
            f"Nice to meet you, {name}!",
            [
                "What is my name?",
                "What's my name?",
                "Who am I?",
                "Do you remember my name?",
                "Do you know my name?",
                "Tell me my name.",
            ],
            f"Your name is {name}.",
        )
    lists = {"color": COLORS, "city": CITIES, "pet": ANIMALS, "food": FOODS, "number": [str(n) for n in range(1, 100)]}
    v = rng.choice(lists[kind])
    tell = {
        "color": ["My favorite color is {v}.", "I like the color {v} best."],
        "city": ["I live in {v}.", "I am from {v}."],
        "pet": ["My favorite animal is the {v}.", "I like the {v} best of all animals."],
        "food": ["My favorite food is {v}.", "I like to eat {v}."],
        "number": ["My lucky number is {v}.", "Remember the number {v}."],
    }[kind]
    want = {
        "color": ["What is my favorite color?", "Which color do I like?"],
        "city": ["Where do I live?", "Which city am I from?"],
        "pet": ["What is my favorite animal?", "Which animal do I like?"],
        "food": ["What is my favorite food?", "What do I like to eat?"],
        "number": ["What is my number?", "Which number did I tell you?"],
    }[kind]
    said = {
        "color": "Your favorite color is {v}.",
        "city": "You live in {v}.",
        "pet": "Your favorite animal is the {v}.",
        "food": "Your favorite food is {v}.",
        "number": "Your number is {v}.",
    }[kind]
    return v, tell, "I will remember that.", want, said.format(v=v)


def memory(rng: Random) -> Exchange:
    """Told in an early turn, asked for in a later one; sometimes never told."""
    value, tell, reply, want, answer = _told(rng)
    asked = noisy(rng, rng.choice(want))
    if rng.random() < 0.08:
        index = rng.randrange(1000)
        return ask(f"untold:{want[0]}:{index}", asked, "You have not told me that yet.")
    telling = rng.choice(tell).format(v=value)
    messages: list[Message] = [{"role": "user", "content": telling}, {"role": "assistant", "content": reply}]
    between = rng.choice([0, 0, 1, 1, 2, 3])
    for _ in range(between):
        messages += draw(rng.choice([small_talk, echo]), rng, held_out=False).messages
    messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return Exchange(f"memory:{value}:{telling}", messages)


SKILLS = {"small_talk": small_talk, "unknown": unknown, "echo": echo, "memory": memory}
