"""Who is in front of the browser: the session behind the cookie, its CSRF token, the signature."""

import asyncio
import hashlib
import hmac
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from appliance.control.console.guard import is_own_origin
from appliance.control.console.render import version
from appliance.control.identity import Person
from appliance.control.people import Passphrases
from appliance.control.sessions import Session, Sessions
from appliance.core.errors import ForbiddenError, RecordError, SignInError

COOKIE = "espalier_session"
THEME = "espalier_theme"
_FIELDS_MAX = 2000
_FORM_MAX_BYTES = 8 << 20
_STRANGERS_MAX_BYTES = 64 << 10
_LIVE_S = 5


class SignInFirst(Exception):
    """Nobody is signed in in this browser, or not any more."""


class Unchanged(Exception):
    """The browser has this page already."""


class Fields(Mapping[str, str]):
    """A form's fields. Of a name that comes twice, `many` gives all and [] the last."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs
        self._last = dict(pairs)

    def __getitem__(self, name: str) -> str:
        return self._last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def many(self, name: str) -> list[str]:
        """Every value of a name, in order."""
        return [value for key, value in self.pairs if key == name]


class Changes:
    """Whether the database has changed: SQLite's own counter, seen by a connection that only
    looks.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._lock = threading.Lock()
        self._began = time.time_ns()

    def count(self) -> str:
        """Another text after every commit of anybody."""
        with self._lock:
            (found,) = self._connection.execute("PRAGMA data_version").fetchone()
        return f"{self._began}.{found}"

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def session_of(request: Request) -> Session | None:
    """The session behind the cookie, if it is good; kept with the request."""
    if not hasattr(request.state, "session"):
        sessions: Sessions = request.app.state.sessions
        secret = request.cookies.get(COOKIE, "")
        request.state.session = sessions.find(secret, at=time.time()) if secret else None
    found: Session | None = request.state.session
    return found


def session_here(request: Request) -> Session:
    """The session behind the cookie.

    Raises:
        SignInFirst: there is none.
        Unchanged: nothing has changed since the page that the browser has.
    """
    found = session_of(request)
    if found is None:
        raise SignInFirst
    if request.method in ("GET", "HEAD"):
        request.state.etag = _etag(request, found)
        if request.state.etag in request.headers.get("if-none-match", ""):
            raise Unchanged
    return found


def reader(request: Request) -> Person:
    """The person in front of the browser; see `session_here`."""
    return session_here(request).person


async def fields_of(request: Request) -> Fields:
    """The form that was sent, by a page of ours, in this very session.

    Raises:
        ForbiddenError: it came from elsewhere, or without this session's CSRF token.
        RecordError: not a form.
        SignInFirst: nobody is signed in.
    """
    request.state.fields = fields = await read_fields(request)
    session = session_of(request)
    if session is None:
        raise SignInFirst
    if not hmac.compare_digest(fields.get("csrf", "").encode(), session.csrf.encode()):
        raise ForbiddenError(
            "this form is not of your session: it was opened before you signed in, or elsewhere",
            next_step="go back, load the page again, and send it once more",
        )
    return fields


async def read_fields(request: Request) -> Fields:
    """The form that was sent by a page of ours, by whomever.

    Raises:
        ForbiddenError: it came from elsewhere.
        RecordError: not a form.
    """
    if not is_own_origin(request.headers):
        raise ForbiddenError(
            "this form was not sent from a page of this console",
            next_step="open the console's own page; behind a proxy, let it pass Host and Origin on",
        )
    most = _STRANGERS_MAX_BYTES if session_cookie(request) == "" else _FORM_MAX_BYTES
    if int(request.headers.get("content-length", "0")) > most:
        raise RecordError(f"a form has at most {most} bytes", next_step="send less at once")
    body = await request.body()
    return await asyncio.to_thread(_parse, body)


def _parse(body: bytes) -> Fields:
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="strict"
        )
    except ValueError as error:
        raise RecordError(f"not a form: {error}") from error
    # Browsers end a form's lines with CR LF; nobody typed the CR.
    return Fields([(name, value.replace("\r\n", "\n")) for name, value in pairs])


def session_cookie(request: Request) -> str:
    """The cookie's secret; empty where none came."""
    return request.cookies.get(COOKIE, "")


Form = Annotated[Fields, Depends(fields_of)]


def signer(request: Request, form: Form) -> Person:
    """The person in front of the browser, who gave the passphrase with this very form.

    Raises:
        SignInError: it is not theirs.
        LockedOutError: too many wrong ones.
    """
    session = session_here(request)
    passphrases: Passphrases = request.app.state.passphrases
    given = form.get("passphrase", "")
    if not given:
        raise SignInError(
            "your passphrase signs this, and it is missing", next_step="give it below"
        )
    try:
        # By session: guesses of strangers at the door do not keep a person here from signing.
        source = hashlib.sha256(session.csrf.encode()).hexdigest()[:16]
        name = session.person.name
        return passphrases.sign_in(name=name, passphrase=given, at=time.time(), source=source)
    except SignInError as error:
        raise SignInError(
            "this is not your passphrase: nothing was done", next_step="give it again below"
        ) from error


Reader = Annotated[Person, Depends(reader)]
Signer = Annotated[Person, Depends(signer)]


def _etag(request: Request, session: Session) -> str:
    changes: Changes = request.app.state.changes
    parts = [changes.count(), session.csrf, version(), request.cookies.get(THEME, "")]
    # Parts' health and a step's progress are not in the database.
    if request.url.path == "/" or request.url.path.startswith("/rounds"):
        parts.append(str(int(time.time() // _LIVE_S)))
    return f'W/"{hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]}"'
