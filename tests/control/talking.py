"""What a person types into the form of Talk, and what is read off its answers."""

import html
import json
import re
from typing import Any

from appliance.control.identity import Person
from tests.serving.conftest import ALIAS

BASE = f"{ALIAS}@base"
CARL = Person(name="carl", role="approver", label="internal")
ASK = {"do": "ask", "temperature": "0", "top_p": "1", "max_tokens": "200", "seed": ""}
NASTY = "<script>alert(1)</script>\"'&\u202e\x07"


def says(text: str, **script: Any) -> str:
    return "say:" + json.dumps({"text": text, **script})


def fields(text: str, *models: str, **change: Any) -> dict[str, Any]:
    return {**ASK, "model": list(models), "role": "user", "text": text, **change}


def kept_fields(prompt: str, **change: str) -> dict[str, Any]:
    prefixed = {f"keep0-{name}": value for name, value in change.items()}
    messages = [{"role": "user", "content": prompt}]
    return {
        "asked": json.dumps({"messages": messages}),
        "side": "0",
        "max_tokens": "64",
        **prefixed,
    }


def events(answer: Any) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def state_of(page: str) -> dict[str, Any]:
    """The hidden fields with which a page of answers is sent back."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page):
        if name != "csrf":
            found.setdefault(name, []).append(html.unescape(value))
    return dict(found)


def cards(html: str) -> list[str]:
    """The cards of answers in a page, without the seconds that they took."""
    found = re.findall(r'<section class="card column".*?</section>', html, re.DOTALL)
    return [re.sub(r"<footer>[\d.]+ s", "<footer>", card) for card in found]
