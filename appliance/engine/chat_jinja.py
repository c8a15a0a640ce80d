"""Chat templates rendered in jinja's sandbox, to the same text as transformers' renderer.

One thing differs on purpose: there is no clock. A rendering is a function of its arguments, so
`strftime_now` is not defined and templates take their own fixed date.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.parser import Parser

from appliance.core.errors import RecordError


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks answers for trainers; here it prints its body."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=16)
def compile_template(text: str) -> Callable[..., str]:
    """The template as a function of its variables.

    Raises:
        RecordError: the text is not a jinja template; the function raises it where a template
            refuses a conversation.
    """
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    try:
        template = environment.from_string(text)
    except jinja2.TemplateError as error:
        raise RecordError(f"the chat template does not parse: {error}") from error

    def render(**variables: Any) -> str:
        try:
            return template.render(**variables)
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise RecordError(f"the chat template refuses this conversation: {error}") from error

    return render


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own filter escapes HTML, which no model was trained on.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
