"""What the form of Talk holds, from one request to the next. Nothing of it is kept here."""

from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.control.acting.code import Ran
from appliance.control.acting.said import Answer
from appliance.control.acting.talk import MAX_SIDES, Ask
from appliance.control.console.visits import Fields
from appliance.control.reading.replay import Prompt
from appliance.control.reading.talk import Version
from appliance.core.errors import RecordError, UsageError
from appliance.core.records import Sampling

ROLES = ("user", "assistant", "system", "tool")
_SAMPLING = {"temperature": "0", "top_p": "1", "max_tokens": "512", "seed": ""}


class State(msgspec.Struct, kw_only=True):
    """Everything that is in the form."""

    models: list[str]
    prompt: Prompt = Prompt()
    sampling: dict[str, str] = msgspec.field(default_factory=lambda: dict(_SAMPLING))
    probabilities: bool = False
    asked: Prompt | None = None
    """What the answers below are answers to."""
    answers: list[Answer] = []
    ran: dict[int, Ran] = {}

    @property
    def system(self) -> str:
        """The system prompt, which has a field of its own."""
        first = self.prompt.messages[0] if self.prompt.messages else {}
        return str(first.get("content", "")) if first.get("role") == "system" else ""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The messages that have a row each."""
        return self.prompt.messages[1:] if self.system else self.prompt.messages

    @property
    def asked_json(self) -> str:
        """For the form to hold."""
        return msgspec.json.encode(self.asked).decode() if self.asked else ""

    def take(self, prompt: Prompt, sampling: Sampling | None) -> None:
        """Fill in a past turn, and how it was sampled."""
        self.prompt = prompt
        if sampling is not None:
            self.sampling |= {
                "temperature": f"{sampling.temperature:g}",
                "top_p": f"{sampling.top_p:g}",
                "max_tokens": str(sampling.max_tokens),
            }

    def order(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Ask:
        """The order that the form stands for.

        Raises:
            UsageError: a number is none, or out of range.
        """
        numbers = {name: text for name, text in self.sampling.items() if text.strip()}
        chosen = [model for model in self.models if model]
        if not chosen:
            raise UsageError("nobody is asked", next_step="choose at least one version")
        wanted = {"probabilities": self.probabilities, **numbers}
        try:
            ask = msgspec.convert(
                {"models": chosen, "messages": messages, **wanted}, Ask, strict=False
            )
        except msgspec.ValidationError as error:
            raise UsageError(
                f"not a way to sample: {error}", next_step="mend the number"
            ) from error
        return msgspec.structs.replace(ask, tools=tools)

    def side(self, text: str) -> int:
        """The side that a button names.

        Raises:
            UsageError: there is no answer on that side.
        """
        if len(text) > 1 or not text.isdecimal() or int(text) >= len(self.answers):
            raise UsageError("there is no such answer", next_step="ask first")
        return int(text)

    def go_on(self, side: str) -> None:
        """Put an answer behind what it answers, with room for what comes next."""
        answer, asked = self.answers[self.side(side)], self.asked or self.prompt
        said = {"role": "assistant", "content": answer.text}
        self.prompt = msgspec.structs.replace(asked, messages=[*asked.messages, said])
        self.answers, self.asked = [], None


def read(form: Fields) -> State:
    """The form that was sent.

    Raises:
        RecordError, UsageError: its hidden parts are not ours.
    """
    messages = [
        {"role": role, "content": text}
        for role, text in zip(form.many("role"), form.many("text"), strict=False)
        if text.strip()
    ]
    if any(message["role"] not in ROLES for message in messages):
        raise UsageError(f"a role is one of {', '.join(ROLES)}")
    if form.get("system", "").strip():
        messages.insert(0, {"role": "system", "content": form["system"]})
    return State(
        models=form.many("model")[:MAX_SIDES],
        prompt=Prompt(messages=messages, **_reference(form)),
        sampling={name: form.get(name, default) for name, default in _SAMPLING.items()},
        probabilities=bool(form.get("probabilities")),
        asked=asked(form) if form.get("asked") else None,
        answers=[
            Answer(version=Version(model=model, adapter=None, name=model, label=""), text=text)
            for model, text in zip(form.many("answered"), form.many("answer"), strict=False)
        ][:MAX_SIDES],
    )


def asked(form: Mapping[str, str]) -> Prompt:
    """What the answers of the form are answers to.

    Raises:
        RecordError: it does not say.
    """
    try:
        return msgspec.json.decode(form.get("asked", ""), type=Prompt)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"not a prompt: {error}", next_step="ask again") from error


def _reference(form: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {"trajectory": form.get("trajectory", "")}
    for name in ("node", "version"):
        if text := form.get(name, ""):
            if not text.isdecimal() or len(text) > 9:
                raise UsageError(f"{name} is a number, got {text[:20]!r}")
            found[name] = int(text)
    return found
