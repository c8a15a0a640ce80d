"""What must be redacted: secret patterns as data, and the pure functions that apply them.

A secret is replaced by ``[redacted:<rule>:<tag>]``. The tag is a keyed HMAC of the secret, so equal
secrets stay equal and nothing can be guessed from the tag without the key. Patterns stand in
redaction.toml; whoever calls reads that file and brings the key. What is not here: names and
addresses of people.
"""

import hashlib
import hmac
import re
import tomllib
from collections.abc import Callable
from typing import Any

import msgspec

from appliance.core.errors import PolicyError

RedactText = Callable[[str], tuple[str, tuple[str, ...]]]

MAX_NESTING = 64
"""Objects and arrays inside one another; `redact_json` takes no more, so no door may."""

_TAG_HEX_DIGITS = 6
_MARK = "[redacted:"
_SENSITIVE_NAME = re.compile(r"(?i)key|token|secret|passw|passphrase|pwd|credential|authorization")


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of secret."""

    id: str
    description: str
    keywords: tuple[str, ...]
    regex: str


class _Patterns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: tuple[Rule, ...]


class Rules:
    """Compiled rules and the key of their tags."""

    def __init__(self, rules: tuple[Rule, ...], key: bytes) -> None:
        if not rules:
            raise PolicyError("no redaction rules: nothing would be redacted")
        if len(key) < 16:
            raise PolicyError(f"the redaction key needs at least 16 bytes, got {len(key)}")
        self.key = key
        self.compiled = tuple((rule.id, rule.keywords, _compile(rule)) for rule in rules)

    def tag(self, secret: str) -> str:
        """What stands for this secret, and only for it."""
        code = hmac.new(self.key, secret.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return code.hexdigest()[:_TAG_HEX_DIGITS]


def parse_rules(text: str, key: bytes) -> Rules:
    """Rules from the text of a TOML file.

    Raises:
        PolicyError: not TOML, an unknown key, a regex that does not compile, or no rules at all.
    """
    try:
        patterns = msgspec.convert(tomllib.loads(text), _Patterns)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise PolicyError(f"redaction rules: {error}") from error
    return Rules(patterns.rule, key)


def redact(text: str, rules: Rules) -> tuple[str, tuple[str, ...]]:
    """The text with every secret replaced, and the ids of the rules that replaced something."""
    lowered = text.lower()
    hits: dict[str, None] = {}
    for rule_id, keywords, pattern in rules.compiled:
        if not any(keyword in lowered for keyword in keywords):
            continue
        text, count = _replace(text, rule_id, pattern, rules)
        if count:
            hits[rule_id] = None
    return text, tuple(hits)


def redact_json(value: Any, redact_text: RedactText) -> tuple[Any, tuple[str, ...]]:
    """A JSON value with the secrets in all its strings replaced; names of fields count as context.

    `redact_text` is `redact` with its rules bound (and, where texts repeat, a cache around it).
    The value itself is returned, not a copy, where there was nothing to replace.
    """
    hits: dict[str, None] = {}
    clean = _walk(value, redact_text, hits)
    return clean, tuple(hits)


def is_too_deep(value: Any) -> bool:
    """Whether a JSON value is nested deeper than `MAX_NESTING`."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        nested = [one for one in level if isinstance(one, dict | list | tuple)]
        if not nested:
            return False
        level = [x for one in nested for x in (one.values() if isinstance(one, dict) else one)]
    return True


def _walk(value: Any, redact_text: RedactText, hits: dict[str, None]) -> Any:
    if isinstance(value, str):
        text, found = redact_text(value)
        hits.update(dict.fromkeys(found))
        return text if found else value
    if isinstance(value, dict):
        fields = {
            name: _walk_field(name, child, redact_text, hits) for name, child in value.items()
        }
        return fields if any(fields[name] is not value[name] for name in value) else value
    if isinstance(value, list | tuple):
        items = [_walk(child, redact_text, hits) for child in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return type(value)(items) if changed else value
    return value


def _walk_field(name: str, value: Any, redact_text: RedactText, hits: dict[str, None]) -> Any:
    if not isinstance(value, str) or not _SENSITIVE_NAME.search(name):
        return _walk(value, redact_text, hits)
    # {"password": "…"}: the name is what tells that the value is a secret.
    before = f'"{name}": "'
    text, found = redact_text(f'{before}{value}"')
    if not found or not text.startswith(before):
        return _walk(value, redact_text, hits)
    hits.update(dict.fromkeys(found))
    return text[len(before) : -1]


def _replace(text: str, rule_id: str, pattern: re.Pattern[str], rules: Rules) -> tuple[str, int]:
    group = "secret" if "secret" in pattern.groupindex else 0
    pieces: list[str] = []
    end = count = 0
    for match in pattern.finditer(text):
        secret = match[group]
        if _MARK in secret:
            continue
        pieces += [text[end : match.start(group)], f"{_MARK}{rule_id}:{rules.tag(secret)}]"]
        end = match.end(group)
        count += 1
    return ("".join([*pieces, text[end:]]) if count else text), count


def _compile(rule: Rule) -> re.Pattern[str]:
    if not rule.keywords or any(word != word.lower() or not word for word in rule.keywords):
        raise PolicyError(f"redaction rule {rule.id}: keywords must be given, in lower case")
    try:
        return re.compile(rule.regex)
    except re.error as error:
        raise PolicyError(f"redaction rule {rule.id}: {error}") from error
