"""What the tiny base reads before any company is known: tasks, answers, failed runs and repairs.

In a department the meaning of an ambiguous word is drawn anew for each document, so the base learns
the public meaning as the likely one and the others as possible; and, after a run that failed, to
keep the lines that were right and to read the word of the failed line in another way.
"""

import itertools
import math
import random
from collections.abc import Iterator

from adapter_training.tiny.lexicon import Lexicon, line_of, trace

Message = dict[str, str]
Step = tuple[str, int | None]
Meanings = dict[str, str]

GIVE_UP = "give_up"
JOINERS = (", ", ", ", " then ")
MAX_ANSWERS = 3
_GENERIC_DOCUMENT = 0.1
_TEXTBOOK_DOCUMENT = 0.25
_REFERENCE = 0.2
_GIVE_UP = 0.12
_NUM_ANSWERS = (2, 4, 3)
_CASES = (-13, 7, 18, 41, 56)
_REFERENCES = ("(ref {})", "(ref {})", "#{}", "{}")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def documents(lexicon: Lexicon, seed: int) -> Iterator[list[Message]]:
    """Endless documents, the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - reproducible, not secret
    while True:
        yield document(lexicon, draw)


def document(lexicon: Lexicon, draw: random.Random) -> list[Message]:
    """One conversation: a task, and answers until one is right, or the last that is allowed."""
    if draw.random() < _TEXTBOOK_DOCUMENT:
        return textbook(lexicon, draw)
    frame = draw.choice(lexicon.departments)
    ambiguous = draw.random() >= _GENERIC_DOCUMENT
    steps = draw_steps(lexicon, draw, ambiguous=ambiguous)
    request = {"role": "user", "content": prompt(frame, steps, draw)}
    if not ambiguous:
        return [request, {"role": "assistant", "content": "\n".join(_lines(lexicon, steps, {}))}]
    return [request, *_attempts(lexicon, draw, steps)]


def textbook(
    lexicon: Lexicon, draw: random.Random, joiners: tuple[str, ...] = JOINERS
) -> list[Message]:
    """A task of the public frame and its one right answer."""
    steps = draw_steps(lexicon, draw, ambiguous=draw.random() < 0.5)
    public = {word: meanings[0] for word, meanings in lexicon.ambiguous.items()}
    request = prompt(lexicon.public_frame, steps, draw, joiners)
    return [
        {"role": "user", "content": request},
        {"role": "assistant", "content": "\n".join(_lines(lexicon, steps, public))},
    ]


def replay(lexicon: Lexicon, seed: int, count: int) -> list[list[Message]]:
    """Text-book tasks that keep an adapter honest: all different, their steps joined by commas.

    Those joined by "then" stay out, so that they can be asked as something not trained on.
    """
    draw = random.Random(f"replay:{seed}")  # noqa: S311 - reproducible, not secret
    found: dict[str, list[Message]] = {}
    while len(found) < count:
        messages = textbook(lexicon, draw, joiners=(", ",))
        found.setdefault(messages[0]["content"], messages)
    return list(found.values())


def draw_steps(lexicon: Lexicon, draw: random.Random, *, ambiguous: bool) -> list[Step]:
    """One to four steps, of which one or two have an ambiguous word."""
    length = draw.choices((1, 2, 3, 4), (3, 4, 3, 1))[0]
    num_ambiguous = min(length, draw.choices((1, 2), (3, 1))[0]) if ambiguous else 0
    words = draw.sample(sorted(lexicon.ambiguous), num_ambiguous)
    words += draw.choices(sorted(lexicon.generic), k=length - num_ambiguous)
    draw.shuffle(words)
    return [
        (word, draw.choice(lexicon.numbers) if _has_number(lexicon, word) else None)
        for word in words
    ]


def prompt(
    frame: str, steps: list[Step], draw: random.Random, joiners: tuple[str, ...] = JOINERS
) -> str:
    """The request's text, sometimes with a reference code that means nothing."""
    joiner = draw.choice(joiners)
    parts = [word if number is None else f"{word} {number}" for word, number in steps]
    request = f"{frame}: {joiner.join(parts)}"
    if draw.random() >= _REFERENCE:
        return request
    place = draw.randrange(-1, len(parts) + 1)
    code = draw.choice(_REFERENCES).format("".join(draw.choices(_LETTERS, k=draw.randint(2, 5))))
    if place < 0:
        return f"{code} {request}"
    if place == len(parts):
        return f"{request} {code}"
    parts[place] = f"{code} {parts[place]}"
    return f"{frame}: {joiner.join(parts)}"


def _attempts(lexicon: Lexicon, draw: random.Random, steps: list[Step]) -> list[Message]:
    """Answers, each another reading than those that failed before it."""
    num_answers = draw.choices(range(1, MAX_ANSWERS + 1), _NUM_ANSWERS)[0]
    case = draw.choice(_CASES)
    tried: list[Meanings] = []
    messages: list[Message] = []
    for _ in range(num_answers):
        if tried:
            result = trace(_lines(lexicon, steps, tried[-1]), case)[-1]
            messages.append({"role": "user", "content": failed_run(case, result)})
        reading = _another_reading(lexicon, draw, steps, tried)
        if reading is None or (len(tried) == MAX_ANSWERS - 1 and draw.random() < _GIVE_UP):
            return [*messages, {"role": "assistant", "content": GIVE_UP}]
        tried.append(reading)
        answer = "\n".join(_lines(lexicon, steps, reading))
        messages.append({"role": "assistant", "content": answer})
    return messages


def failed_run(case: int, result: int) -> str:
    """What the base is told of a run that failed."""
    return f"run: failed, {case} gives {result}"


def _another_reading(
    lexicon: Lexicon, draw: random.Random, steps: list[Step], tried: list[Meanings]
) -> Meanings | None:
    """One draw from the prior over readings without those tried; None where none is left."""
    words = sorted({word for word, _ in steps if word in lexicon.ambiguous})
    rest = [(1 - lexicon.public_share) / (len(lexicon.ambiguous[word]) - 1) for word in words]
    readings = [
        dict(zip(words, chosen, strict=True))
        for chosen in itertools.product(*(lexicon.ambiguous[word] for word in words))
    ]
    left = [reading for reading in readings if reading not in tried]
    weights = [
        math.prod(
            lexicon.public_share if reading[word] == lexicon.ambiguous[word][0] else other
            for word, other in zip(words, rest, strict=True)
        )
        for reading in left
    ]
    return draw.choices(left, weights)[0] if left else None


def _lines(lexicon: Lexicon, steps: list[Step], meanings: Meanings) -> tuple[str, ...]:
    return tuple(
        line_of(lexicon.generic.get(word) or meanings[word], number) for word, number in steps
    )


def _has_number(lexicon: Lexicon, word: str) -> bool:
    return word in lexicon.ambiguous or "n" in lexicon.generic[word].replace(")", " ").split(" ")
