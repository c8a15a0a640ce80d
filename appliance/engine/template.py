"""A base's chat template and tokenizer: conversations to ids and back.

Text that came in a message never becomes a special token: what a template writes as a mark of its
own (``<|im_start|>``) is spelled out letter by letter where a user, a tool or a model writes it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from appliance.core.digests import Digest, digest_files
from appliance.core.errors import RecordError, UsageError
from appliance.engine.chat_jinja import compile_template
from appliance.engine.messages import normalise
from appliance.engine.tool_calls import parse_answer

_OURS = Path(__file__).with_name("chatml_tools.jinja")
_END_OF_TURN = "<|im_end|>"
_FILES = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
# A private-use plane that tokens do not use: one character for each special token.
_SHIELD = 0xF0000

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Spans:
    """A conversation's ids, and which of them the assistant wrote."""

    ids: list[int]
    mask: list[int]
    """1 on every token of an answer: its content, its tool calls and its end-of-turn token."""
    answers: list[tuple[int, int]]
    """First and one-past-last index of each answer, in order."""


class Template:
    """Renders and encodes; safe to share between threads."""

    def __init__(
        self,
        text: str,
        tokenizer: str,
        settings: Mapping[str, Any],
        stop_ids: Sequence[int],
        digest: Digest,
    ) -> None:
        self._render = compile_template(text)
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._spelling = Tokenizer.from_str(tokenizer)
        self._spelling.encode_special_tokens = True
        for one in (self._tokenizer, self._spelling):
            one.no_truncation()
            one.no_padding()
        self._variables = _special_tokens(settings)
        self.stop_ids = sorted(set(stop_ids) | set(self._end_of_turn_ids(text)))
        self.digest = digest

    @classmethod
    def load(cls, base: Path) -> "Template":
        """The template of a registered base.

        Raises:
            UsageError: a file is missing or is not what its name says.
        """
        try:
            text, tokenizer, raw = ((base / name).read_text() for name in _FILES)
            settings = msgspec.json.decode(raw, type=dict[str, Any])
            stop_ids = _stop_ids(base)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{base} holds no usable tokenizer and template: {error}") from error
        return cls(text, tokenizer, settings, stop_ids, digest_files(base, _FILES))

    def render(
        self, messages: Messages, tools: Tools = (), *, add_generation_prompt: bool = True
    ) -> str:
        """The conversation as one text.

        Raises:
            RecordError: the template refuses it, or a message is not one.
        """
        return self._text(normalise(messages), list(tools), add_generation_prompt)

    def encode(
        self, messages: Messages, tools: Tools = (), *, add_generation_prompt: bool = True
    ) -> list[int]:
        """The conversation's ids, exactly as they are fed to the model."""
        text = self._text(*self._shielded(messages, tools), add_generation_prompt)
        if self._shielded_name.search(text):
            return [token for token, _, _ in self._pieces(text)]
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text; a special token's name in it is spelled out."""
        return list(self._spelling.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def parse_answer(self, text: str, tools: Tools | None = None) -> dict[str, Any]:
        """The assistant message that an answer's text is; see `tool_calls.parse_answer`."""
        return parse_answer(text, tools)

    def spans(self, messages: Messages, tools: Tools = ()) -> Spans:
        """Encode a finished conversation once, and mark what the assistant wrote.

        The marked tokens of an answer, less its last one (the end of turn), decode to exactly its
        content and our rendering of its tool calls. Where the tokenizer would join a prompt's end
        with an answer's begin, the two are encoded apart, as they are when a model answers.

        Raises:
            RecordError: it cannot be encoded without loss: the template changes an earlier
                answer, trims one, or the tokenizer does not give it back.
        """
        plain, shielded_tools = self._shielded(messages, tools)
        text = self._text(plain, shielded_tools, False)
        bounds: list[tuple[int, int, str]] = []
        for index, message in enumerate(plain):
            if message["role"] != "assistant":
                continue
            prompt = self._text(plain[:index], shielded_tools, True)
            answered = self._text(plain[: index + 1], shielded_tools, False)
            if not (text.startswith(answered) and answered.startswith(prompt)):
                raise _lossy(index, "the template rewrites earlier turns")
            bounds.append((index, len(prompt), answered))
        pieces = self._pieces_apart(text, [start for _, start, _ in bounds])
        answers = [
            self._answer(pieces, answered, start, plain[index], index)
            for index, start, answered in bounds
        ]
        ids = [token for token, _, _ in pieces]
        mask = [0] * len(ids)
        for first, last in answers:
            mask[first:last] = [1] * (last - first)
        return Spans(ids, mask, answers)

    def _answer(
        self,
        pieces: list[tuple[int, int, int]],
        text: str,
        start: int,
        message: Mapping[str, Any],
        index: int,
    ) -> tuple[int, int]:
        """Token range of the answer in ``text[start:]``, its end-of-turn token included."""
        inside = [
            at for at, (_, left, right) in enumerate(pieces) if right > start and left < len(text)
        ]
        if not inside or pieces[inside[0]][1] < start:
            raise _lossy(index, "a token joins the prompt's end and the answer's begin")
        first = inside[0]
        last = next((at for at in inside if pieces[at][0] in self.stop_ids), None)
        if last is None:
            raise _lossy(index, "the template ends no turn with a stop token")
        written = self._unshielded(text[start : pieces[last][1]])
        ids = [token for token, _, _ in pieces[first:last]]
        if self.decode(ids, skip_special_tokens=False) != written:
            raise _lossy(index, "the tokenizer does not give the text back")
        content = self._unshielded(message["content"])
        if not written.startswith(content) or (len(written) > len(content)) != (
            "tool_calls" in message
        ):
            raise _lossy(index, "the template changes the answer's content")
        return first, last + 1

    def _text(self, messages: list[dict[str, Any]], tools: list[Any], prompt: bool) -> str:
        return self._render(
            messages=messages,
            tools=tools or None,
            documents=None,
            add_generation_prompt=prompt,
            **self._variables,
        )

    def _pieces_apart(self, text: str, starts: Sequence[int]) -> list[tuple[int, int, int]]:
        """`_pieces`, with no token that reaches over one of `starts`."""
        pieces = self._pieces(text)
        begins = {left for _, left, _ in pieces}
        cuts = [start for start in starts if start not in begins]
        if not cuts:
            return pieces
        return [
            (token, begin + left, begin + right)
            for begin, end in pairwise([0, *cuts, len(text)])
            for token, left, right in self._pieces(text[begin:end])
        ]

    def _pieces(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of every token, positions in `text`, which may hold shielded names."""
        if not self._shielded_name.search(text):
            whole = self._tokenizer.encode(text, add_special_tokens=False)
            return [
                (token, *offset) for token, offset in zip(whole.ids, whole.offsets, strict=True)
            ]
        pieces: list[tuple[int, int, int]] = []
        at = 0
        # Special tokens cut the text for the tokenizer too, so the parts encode as the whole would.
        for part in self._special_name.split(text):
            kind = self._special.get(part)
            if kind is not None:
                pieces.append((kind, at, at + len(part)))
            elif part:
                spelled = self._spelling.encode(self._unshielded(part), add_special_tokens=False)
                pieces += [
                    (token, at + left, at + right)
                    for token, (left, right) in zip(spelled.ids, spelled.offsets, strict=True)
                ]
            at += len(part)
        return pieces

    def _shielded(self, messages: Messages, tools: Tools) -> tuple[list[dict[str, Any]], list[Any]]:
        """The conversation with the first letter of every special token's name in it replaced."""
        plain = normalise(messages)
        if not self._special:
            return plain, list(tools)
        return self._shield(plain), self._shield(list(tools))

    def _shield(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._special_name.sub(lambda match: self._shields[match[0]], value)
        if isinstance(value, Mapping):
            return {self._shield(key): self._shield(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._shield(item) for item in value]
        return value

    def _unshielded(self, text: str) -> str:
        names = {shield: name for name, shield in self._shields.items()}
        return self._shielded_name.sub(lambda match: names[match[0]], text)

    @cached_property
    def _special(self) -> dict[str, int]:
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: at for at, token in added.items() if token.special}

    @cached_property
    def _shields(self) -> dict[str, str]:
        """Each special token's name → a name of the same length that no text holds."""
        return {name: chr(_SHIELD + at) + name[1:] for at, name in enumerate(self._special)}

    @cached_property
    def _special_name(self) -> re.Pattern[str]:
        return _any_of(self._special)

    @cached_property
    def _shielded_name(self) -> re.Pattern[str]:
        return _any_of(self._shields.values())

    def _end_of_turn_ids(self, text: str) -> list[int]:
        names = [_END_OF_TURN] if _END_OF_TURN in text else []
        names += [self._variables["eos_token"]] if "eos_token" in self._variables else []
        ids = [self._tokenizer.token_to_id(name) for name in names]
        return [token for token in ids if token is not None]


def espalier_template(tokenizer: Path, settings: Mapping[str, Any]) -> str:
    """Our template for a tokenizer: ChatML with Hermes tool calls.

    A tokenizer without ``<|im_end|>`` ends turns with its own end-of-text token.

    Raises:
        UsageError: it has neither.
    """
    text = _OURS.read_text()
    names = _special_tokens(settings)
    if Tokenizer.from_file(str(tokenizer)).token_to_id(_END_OF_TURN) is None:
        if "eos_token" not in names:
            raise UsageError("the tokenizer has no token that can end a turn (eos_token)")
        text = text.replace(_END_OF_TURN, names["eos_token"])
    return (
        "{{- bos_token -}}\n" + text
        if settings.get("add_bos_token") and "bos_token" in names
        else text
    )


def carries_tools(text: str, settings: Mapping[str, Any]) -> bool:
    """Whether a template shows tools, calls and results, with calls in the form that we parse."""
    call = {"name": "look_up_gauge", "arguments": {"river": "Oder"}}
    schema = {"type": "object", "properties": {"river": {"type": "string"}}}
    tool = {"name": call["name"], "description": "Reads a level", "parameters": schema}
    messages = normalise(
        [
            {"role": "user", "content": "How high?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call00001", "function": call}],
            },
            {
                "role": "tool",
                "tool_call_id": "call00001",
                "name": call["name"],
                "content": "4.2 metres",
            },
        ]
    )
    variables = {
        "documents": None,
        "tools": [{"type": "function", "function": tool}],
        **_special_tokens(settings),
    }
    try:
        render = compile_template(text)
        prompt = render(messages=messages[:1], add_generation_prompt=True, **variables)
        rendered = render(messages=messages, add_generation_prompt=False, **variables)
    except RecordError:
        return False
    parsed = parse_answer(rendered.removeprefix(prompt)).get("tool_calls", [])
    names = [item["function"]["name"] for item in parsed]
    return "Reads a level" in prompt and "4.2 metres" in rendered and names == [call["name"]]


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """``bos_token`` and the like, as the template's variables."""
    tokens = {
        name: settings.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")
    }
    texts = {name: t["content"] if isinstance(t, Mapping) else t for name, t in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _stop_ids(base: Path) -> list[int]:
    """Every id that the base's files call an end: of text, or of a turn."""
    stops: list[int] = []
    for name in ("config.json", "generation_config.json"):
        if (base / name).exists():
            end = msgspec.json.decode((base / name).read_bytes()).get("eos_token_id")
            stops += end if isinstance(end, list) else [] if end is None else [end]
    return stops


def _any_of(names: Any) -> re.Pattern[str]:
    ordered = sorted(names, key=len, reverse=True)
    return (
        re.compile("(" + "|".join(map(re.escape, ordered)) + ")")
        if ordered
        else re.compile(r"(?!)")
    )


def _lossy(index: int, why: str) -> RecordError:
    return RecordError(f"message {index} cannot be encoded without loss: {why}")
