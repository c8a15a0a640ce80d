"""One choice of an answer while it grows: ids to text, stop strings, tool calls held back. No I/O.

Text is handed out only when it is certain: not while it may be the begin of a stop string, of a
tool call, or half of a character.
"""

from collections.abc import Sequence
from typing import Any

from appliance.engine.template import Template
from appliance.engine.tool_calls import CALL_BEGIN, CALL_END, first_call_end
from appliance.engine.wire import Line

_HALF_CHARACTER = "\ufffd"


class Answer:
    """One choice. `take` its lines, `finish` it, then read `message` and `finish_reason`."""

    def __init__(
        self,
        template: Template,
        *,
        stops: Sequence[str] = (),
        tools: Sequence[Any] = (),
        one_call: bool = False,
    ) -> None:
        """one_call: it ends with its first tool call."""
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.top_logprobs: list[list[tuple[int, float]]] = []
        self.text = ""
        self.finish_reason = ""
        self.stop = ""
        """The stop string that ended it."""
        self.ended = False
        """Whether the engine, too, is done with it."""
        self.message: dict[str, Any] = {}
        self._template = template
        self._stops = tuple(stops)
        self._tools = tools
        self._one_call = one_call
        self._marks = (*self._stops, *((CALL_BEGIN,) if tools else ()))
        self._settled = 0  # ids whose text is in self.text
        self._context = 0  # ids before this one are not needed to decode what follows
        self._sent = 0

    def fresh(self) -> "Answer":
        """The same choice before its first token."""
        return Answer(self._template, stops=self._stops, tools=self._tools, one_call=self._one_call)

    def fail(self) -> None:
        """It cannot go on: what was handed out is all that it is."""
        self.finish_reason = "error"
        self.message = {"role": "assistant", "content": self.text[: self._sent]}

    def take(self, line: Line, *, streaming: bool = True) -> str:
        """Add a line's tokens; returns the text that is now certain.

        Without `streaming` nobody waits for text: it is made once, at the end.
        """
        self.ended = self.ended or bool(line.finish_reason)
        if self.finish_reason:
            return ""
        self._add(line, streaming=streaming)
        if line.finish_reason and not self.finish_reason:
            self._decode(final=True)
            self.finish_reason = self.finish_reason or line.finish_reason
        if self.finish_reason:
            return self._finish()
        return self._send(self._certain()) if streaming else ""

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls, once finished."""
        calls: list[dict[str, Any]] = self.message.get("tool_calls") or []
        return calls

    def _add(self, line: Line, *, streaming: bool) -> None:
        """Add its tokens: one by one where one may end the answer that the engine does not know."""
        step = 1 if self._one_call else max(1, len(line.ids))
        for at in range(0, len(line.ids), step):
            part = slice(at, at + step)
            self.ids += line.ids[part]
            self.logprobs += line.logprobs[part]
            self.top_logprobs += line.top_logprobs[part]
            if streaming or self._stops or self._one_call:
                self._decode(final=False)
            if self.finish_reason:
                break

    def _decode(self, *, final: bool) -> None:
        """Move what the new ids spell into `text`; cut it at a stop string."""
        before = self._template.decode(self.ids[self._context : self._settled])
        after = self._template.decode(self.ids[self._context :])
        if not final and (len(after) <= len(before) or after.endswith(_HALF_CHARACTER)):
            return
        searched = len(self.text)
        self.text += after[len(before) :]
        self._context, self._settled = self._settled, len(self.ids)
        for stop in self._stops:
            at = self.text.find(stop, max(0, searched - len(stop) + 1))
            if at >= 0:
                self.text = self.text[:at]
                self.finish_reason = "stop"
                self.stop = stop
        if self._one_call:
            came = self.text.find(CALL_END, max(0, searched - len(CALL_END) + 1)) >= 0
            if came and (end := first_call_end(self.text)) is not None:
                self.text = self.text[:end]
                self.finish_reason = "stop"

    def _certain(self) -> int:
        """How much of the text cannot become something else."""
        end = len(self.text)
        if self._tools and (at := self.text.find(CALL_BEGIN, self._sent)) >= 0:
            end = at
        else:
            held = (_overlap(self.text, mark) for mark in self._marks)
            end -= max(held, default=0)
        # The newlines before a tool call are not content.
        while self._tools and end > self._sent and self.text[end - 1] == "\n":
            end -= 1
        return end

    def _finish(self) -> str:
        self.message = self._template.parse_answer(self.text, self._tools)
        if self.tool_calls and self.finish_reason == "stop":
            self.finish_reason = "tool_calls"
        content = self.message.get("content") or ""
        rest: str = content[self._sent :]
        self._sent = len(content)
        return rest

    def _send(self, end: int) -> str:
        start, self._sent = self._sent, max(self._sent, end)
        return self.text[start : self._sent]


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that is a proper begin of `mark`."""
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0
