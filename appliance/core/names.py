"""What may be a name: of an alias, a team, a project, an agent."""

MAX_NAME = 100


def is_name(text: str) -> bool:
    """Whether people can read it and tell it from another: printable, no space at either end."""
    return text.isprintable() and text.strip() == text and 0 < len(text) <= MAX_NAME


def is_alias(text: str) -> bool:
    """Whether clients can ask for it as a model, with a version after an ``@``."""
    return is_name(text) and not set(text) & set("@ ")
