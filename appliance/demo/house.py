"""The appliance as its users see it: the `espalier` command, in a home of its own."""

import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_COMMAND = (sys.executable, "-m", "appliance.control.command")


class DemoError(Exception):
    """The demo cannot go on; the message is for people."""


class CommandError(DemoError):
    """An `espalier` command ended with an error."""

    def __init__(self, words: tuple[str, ...], code: int, message: str) -> None:
        super().__init__(f"espalier {' '.join(words)} ended with {code}: {message}")
        self.code = code


@dataclass(slots=True)
class House:
    """One home, its people, and the address that its agents use."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    base_url: str = ""
    api_key: str = ""

    def ask(self, *words: str, person: str | None = None, failed: int = 0) -> Any:
        """Run a command to its end and return its last line of JSON.

        Args:
            failed: a code that says no more than the JSON does.

        Raises:
            CommandError: it ended with an error.
        """
        ended = subprocess.run(
            [*_COMMAND, *words, "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment(person),
            check=False,
        )
        if ended.returncode not in (0, failed) or not ended.stdout.strip():
            raise CommandError(words, ended.returncode, ended.stderr.strip())
        return json.loads(ended.stdout.strip().splitlines()[-1])

    def run(self, *words: str, person: str | None = None) -> None:
        """Run a command that people read.

        Raises:
            CommandError: it ended with an error, which it has printed.
        """
        code = subprocess.run(
            [*_COMMAND, *words],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            env=self._environment(person),
            check=False,
        ).returncode
        if code != 0:
            raise CommandError(words, code, "see above")

    def start(self, *words: str, output: Path) -> "subprocess.Popen[bytes]":
        """Start a command that goes on beside us, its output in a file."""
        with output.open("wb") as file:
            return subprocess.Popen(
                [*_COMMAND, *words, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment(None),
            )

    def add_person(self, name: str, role: str, *, by: str | None = None) -> None:
        """Make a person with a random passphrase, kept beside the home for this demo's end."""
        folder = self.home.parent / "people"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
        self.ask("user", "add", name, "--role", role, "--new-passphrase-file", str(path), person=by)

    def _environment(self, person: str | None) -> dict[str, str]:
        environment = {**os.environ, **self.environment, "ESPALIER_HOME": str(self.home)}
        environment.pop("ESPALIER_AS", None)
        if self.base_url:
            environment |= {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": self.api_key}
        if person is not None:
            passphrase = (self.home.parent / "people" / person).read_text()
            environment |= {"ESPALIER_AS": person, "ESPALIER_PASSPHRASE": passphrase}
        return environment


def last_json(output: Path) -> Any:
    """The last line of a command's output file, as JSON.

    Raises:
        DemoError: it is not JSON; shows what it is.
    """
    text = output.read_text(errors="replace").strip()
    try:
        return json.loads(text.splitlines()[-1])
    except (IndexError, ValueError):
        raise DemoError(f"{output.name}: {text[-2000:] or 'nothing was printed'}") from None
