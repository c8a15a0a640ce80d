"""What a person signs in with on a terminal. It is never echoed, and never an argument."""

import argparse
import getpass
import os
import warnings
from pathlib import Path

from appliance.core.errors import ForbiddenError, UsageError


def credential(arguments: argparse.Namespace) -> tuple[str, str]:
    """Name and passphrase: from the arguments, else the environment, else asked for.

    Raises:
        ForbiddenError: nobody is named.
        UsageError: a file cannot be read, or there is no terminal to ask on.
    """
    name = arguments.person or os.environ.get("ESPALIER_AS")
    if not name:
        raise ForbiddenError("who are you?", next_step="--as NAME, or ESPALIER_AS")
    if arguments.passphrase_file:
        return name, _read_secret(arguments.passphrase_file)
    if passphrase := os.environ.get("ESPALIER_PASSPHRASE"):
        return name, passphrase
    return name, _ask_unseen(
        f"passphrase of {name}: ", "--passphrase-file FILE, or $ESPALIER_PASSPHRASE"
    )


def new_passphrase(arguments: argparse.Namespace) -> str:
    """A new passphrase for somebody, from a file, or asked for twice.

    Raises:
        UsageError: a file cannot be read, there is no terminal, or the two differ.
    """
    if arguments.new_passphrase_file:
        return _read_secret(arguments.new_passphrase_file)
    instead = "--new-passphrase-file FILE"
    first = _ask_unseen(f"a passphrase for {arguments.new_name}: ", instead)
    if first != _ask_unseen("again: ", instead):
        raise UsageError("the two passphrases differ", next_step="type the same one twice")
    return first


def _ask_unseen(prompt: str, instead: str) -> str:
    """Ask on the terminal; never read from elsewhere, where what is typed would be seen."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(prompt)
    except (EOFError, getpass.GetPassWarning) as error:
        raise UsageError(
            "there is no terminal to ask for the passphrase on", next_step=instead
        ) from error


def _read_secret(path: str) -> str:
    try:
        return Path(path).read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the passphrase file {path}: {error}",
            next_step="give a text file that you may read",
        ) from error
