"""The environment of a task: its check in a sandbox, and what the agent is told of the result."""

import asyncio
from collections.abc import Sequence

import msgspec

from appliance.agent.checks import ProgramCheck, Verdict, decide, program_of
from appliance.agent.loop import Proposal
from appliance.agent.tasks import Task
from appliance.core.records import Json
from appliance.sandbox.sandbox import Sandbox

_RUN, _GIVE_UP = "run", "give_up"
_TOOLS: tuple[Json, ...] = (
    {
        "type": "function",
        "function": {
            "name": _RUN,
            "description": "Run an answer and see whether it is right.",
            "parameters": {
                "type": "object",
                "properties": {"answer": {"type": "string"}},
                "required": ["answer"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": _GIVE_UP,
            "description": "Stop working on this task.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
)


class _Arguments(msgspec.Struct):
    answer: str


class TaskEnvironment:
    """Tries answers to one task. Model-written code runs in the sandbox only."""

    def __init__(self, task: Task, sandbox: Sandbox) -> None:
        self._task = task
        self._check = task.parsed_check()
        self._sandbox = sandbox

    @property
    def tools(self) -> Sequence[Json]:
        """`run` and `give_up`, where the task wants tools."""
        return _TOOLS if self._task.tools else ()

    def read(self, message: Json) -> Proposal:
        """The answer's text, or the argument of its first tool call."""
        calls = message.get("tool_calls") or ()
        if not calls:
            text = message.get("content") or ""
            return Proposal(text=None if text.strip() == self._task.give_up else text)
        function = calls[0]["function"]
        if function["name"] == _GIVE_UP:
            return Proposal(text=None)
        try:
            return Proposal(text=msgspec.json.decode(function["arguments"], type=_Arguments).answer)
        except msgspec.DecodeError:
            # No JSON, or no answer in it: tried as it stands, which will say what is wrong.
            return Proposal(text=function["arguments"])

    async def run(self, text: str) -> Verdict:
        """Judge an answer."""
        if not isinstance(self._check, ProgramCheck):
            return decide(self._check, text, None)
        run = await asyncio.wrap_future(self._sandbox.submit(program_of(self._check, text)))
        return decide(self._check, text, run)

    def reply(self, message: Json, verdict: Verdict) -> Sequence[Json]:
        """The result as a user's turn, or as the result of each tool call."""
        told = self._told(verdict)
        calls = message.get("tool_calls") or ()
        if not calls:
            return ({"role": "user", "content": told},)
        first, *others = ({"role": "tool", "tool_call_id": call["id"]} for call in calls)
        only_one = "not run: one call at a time"
        return ({**first, "content": told}, *({**other, "content": only_one} for other in others))

    def _told(self, verdict: Verdict) -> str:
        fields = {
            "detail": verdict.detail,
            "case": verdict.case,
            "got": verdict.got,
            "error": verdict.error,
            "outcome": verdict.outcome,
            "give_up": self._task.give_up,
        }
        # Not str.format: a template is data, and braces that mean something else stay.
        template = self._task.on_failure
        parts = template.split("{")
        told = parts[0]
        for part in parts[1:]:
            name, closed, rest = part.partition("}")
            told += fields[name] + rest if closed and name in fields else "{" + part
        return " ".join(told.split()) if "\n" not in template else told
