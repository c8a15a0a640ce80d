"""How text is made ready to be searched: the same way for what is kept and for what is asked."""

import re
import unicodedata
from collections.abc import Iterable

_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters that are no space
    "\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # no width, or direction alone
    "\ud800-\udfff]"  # halves of surrogate pairs
)
"""What nobody types, and what nobody would find."""


def fold(text: str) -> str:
    """The text in Unicode's composed form, without control characters, each run of space as one."""
    return " ".join(unicodedata.normalize("NFC", _UNSEEN.sub("", text)).split())


def fold_together(texts: Iterable[str], *, max_characters: int) -> str:
    """Several texts as one, cut; reads no further than it must."""
    found: list[str] = []
    room = max_characters
    for text in texts:
        # Folding may shorten a text, but ten megabytes are not gone through for the rest of it.
        folded = fold(text[: 4 * max_characters])[:room]
        if folded:
            found.append(folded)
            room -= len(folded) + 1
        if room <= 0:
            break
    return " ".join(found)
