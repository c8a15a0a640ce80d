"""What the tiny base reads before any company is known: tasks, answers, failed runs and repairs.

In a department the meaning of an ambiguous word is drawn anew for each document, so the base learns
the public meaning as the likely one and the others as possible; and, after a run that failed, to
keep the lines that were right and to read the word of the failed line in another way.
"""

import random
from collections.abc import Iterator

from adapter_training.tiny.lexicon import Lexicon, line_of, trace

Message = dict[str, str]
Step = tuple[str, int | None]
Meanings = dict[str, str]

GIVE_UP = "give_up"
MAX_ANSWERS = 3
_GENERIC_DOCUMENT = 0.1
_TEXTBOOK_DOCUMENT = 0.25
_REFERENCE = 0.2
_GIVE_UP = 0.12
_NUM_CASES = 4
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def documents(lexicon: Lexicon, seed: int) -> Iterator[list[Message]]:
    """Endless documents, the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311: reproducible, not secret
    while True:
        yield document(lexicon, draw)


def document(lexicon: Lexicon, draw: random.Random) -> list[Message]:
    """One conversation: a task, and answers until one is right, or the last that is allowed."""
    if draw.random() < _TEXTBOOK_DOCUMENT:
        return textbook(lexicon, draw)
    frame = draw.choice(lexicon.departments)
    steps = draw_steps(lexicon, draw, ambiguous=draw.random() >= _GENERIC_DOCUMENT)
    truth = _draw_meanings(lexicon, draw, steps, excluded={}, kept={})
    return [{"role": "user", "content": prompt(frame, steps, draw)}, *_attempts(lexicon, draw, steps, truth)]


def textbook(lexicon: Lexicon, draw: random.Random) -> list[Message]:
    """A task of the public frame and its one right answer."""
    steps = draw_steps(lexicon, draw, ambiguous=draw.random() < 0.5)
    public = {word: meanings[0] for word, meanings in lexicon.ambiguous.items()}
    return [
        {"role": "user", "content": prompt(lexicon.public_frame, steps, draw)},
        {"role": "assistant", "content": "\n".join(_lines(lexicon, steps, public))},
    ]


def draw_steps(lexicon: Lexicon, draw: random.Random, *, ambiguous: bool) -> list[Step]:
    """One to four steps, of which one or two have an ambiguous word."""
    length = draw.choices((1, 2, 3, 4), (3, 4, 3, 1))[0]
    num_ambiguous = min(length, draw.choices((1, 2), (3, 2))[0]) if ambiguous else 0
    words = draw.sample(sorted(lexicon.ambiguous), num_ambiguous)
    words += draw.choices(sorted(lexicon.generic), k=length - num_ambiguous)
    draw.shuffle(words)
    return [(word, draw.choice(lexicon.numbers) if _has_number(lexicon, word) else None) for word in words]


def prompt(frame: str, steps: list[Step], draw: random.Random) -> str:
    """The request's text, sometimes with a reference code that means nothing."""
    joiner = draw.choice((", ", ", ", " then "))
    parts = [word if number is None else f"{word} {number}" for word, number in steps]
    if draw.random() < _REFERENCE:
        place = draw.randrange(len(parts) + 1)
        code = "".join(draw.choices(_LETTERS, k=draw.randint(2, 4)))
        if place == len(parts):
            parts[-1] += f" (ref {code})"
        else:
            parts[place] = f"(ref {code}) {parts[place]}"
    return f"{frame}: {joiner.join(parts)}"


def _attempts(
    lexicon: Lexicon, draw: random.Random, steps: list[Step], truth: Meanings
) -> list[Message]:
    cases = [draw.randint(-20, 60) for _ in range(_NUM_CASES)]
    expected_lines = _lines(lexicon, steps, truth)
    kept: Meanings = {}
    excluded: dict[str, set[str]] = {}
    messages: list[Message] = []
    for attempt in range(1, MAX_ANSWERS + 1):
        reading = _draw_meanings(lexicon, draw, steps, excluded=excluded, kept=kept)
        lines = _lines(lexicon, steps, reading)
        detail = _first_difference(lines, expected_lines, cases)
        if attempt == MAX_ANSWERS and detail is not None and draw.random() < _GIVE_UP:
            return [*messages, {"role": "assistant", "content": GIVE_UP}]
        messages.append({"role": "assistant", "content": "\n".join(lines)})
        if detail is None:
            return messages
        line, text = detail
        if attempt < MAX_ANSWERS:
            messages.append({"role": "user", "content": f"run: failed\n{text}"})
        wrong = steps[line][0]
        kept = {word: reading[word] for word, _ in steps[:line] if word in reading}
        excluded.setdefault(wrong, set()).add(reading[wrong])
    return messages


def _first_difference(
    lines: tuple[str, ...], expected: tuple[str, ...], cases: list[int]
) -> tuple[int, str] | None:
    for case in cases:
        got, wanted = trace(lines, case), trace(expected, case)
        for index, (value, right) in enumerate(zip(got, wanted, strict=True)):
            if value != right:
                return index, f"line {index + 1}: got {value}, expected {right}"
    return None


def _draw_meanings(
    lexicon: Lexicon,
    draw: random.Random,
    steps: list[Step],
    *,
    excluded: dict[str, set[str]],
    kept: Meanings,
) -> Meanings:
    drawn = {}
    for word, _ in steps:
        meanings = lexicon.ambiguous.get(word)
        if meanings is None:
            continue
        rest = (1 - lexicon.public_share) / (len(meanings) - 1)
        weights = [lexicon.public_share] + [rest] * (len(meanings) - 1)
        left = [(m, w) for m, w in zip(meanings, weights, strict=True) if m not in excluded.get(word, ())]
        drawn[word] = kept.get(word) or draw.choices([m for m, _ in left], [w for _, w in left])[0]
    return drawn


def _lines(lexicon: Lexicon, steps: list[Step], meanings: Meanings) -> tuple[str, ...]:
    return tuple(
        line_of(lexicon.generic.get(word) or meanings[word], number) for word, number in steps
    )


def _has_number(lexicon: Lexicon, word: str) -> bool:
    return word in lexicon.ambiguous or "n" in lexicon.generic[word].replace(")", " ").split(" ")
