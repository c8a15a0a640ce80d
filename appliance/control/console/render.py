"""From a template and what it shows to a response."""

import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2

from appliance.core.digests import short

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"


@cache
def templates() -> jinja2.Environment:
    """Every template of the console, escaping on; a name that is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"isotime": isotime, "utc": utc, "short": short, "mib": mib, "cut": cut}
    return made


@cache
def version() -> str:
    """Changes with any asset: it is in their addresses, so that browsers may keep them for ever."""
    state = hashlib.sha256(metadata.version("espalier-appliance").encode())
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()[:12]


def render(template: str, **context: Any) -> bytes:
    """The page's bytes."""
    return templates().get_template(template).render(context).encode("utf-8", "replace")


def isotime(at: float) -> str:
    """UTC seconds since the epoch → 2026-11-21T14:03:05Z."""
    return _moment(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc(at: float) -> str:
    """UTC seconds since the epoch → 2026-11-21 14:03 UTC."""
    return _moment(at).strftime("%Y-%m-%d %H:%M UTC")


def mib(num_bytes: float) -> str:
    """Bytes → 0.5 MiB, 1,024 MiB, 187.3 GiB."""
    if num_bytes >= 10 * 2**30:
        return f"{num_bytes / 2**30:,.1f} GiB"
    digits = 1 if num_bytes < 10 * 2**20 else 0
    return f"{num_bytes / 2**20:,.{digits}f} MiB"


def cut(text: str, most: int = 4000) -> str:
    """The text's beginning, with an ellipsis where something was left out."""
    return text if len(text) <= most else text[:most].rstrip() + " …"


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(min(max(at, 0.0), 253_402_300_799.0), UTC)
