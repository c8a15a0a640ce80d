"""Reading a TOML table strictly: every key asked for once, every other key refused."""

from typing import Any

_MISSING: Any = object()


class CompanyError(Exception):
    """A company file is wrong. Says what was expected, what came, and what to do."""

    exit_code = 2

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(f"{message}\n  next: {next_step}" if next_step else message)
        self.next_step = next_step


class Table:
    """One table of a file. `done` refuses what nobody asked for."""

    def __init__(self, content: dict[str, Any], where: str) -> None:
        self.where = where
        self._content = content
        self._asked: set[str] = set()

    def text(self, key: str, *, default: str = _MISSING) -> str:
        """A text."""
        value: str = self._of_type(key, str, "a text", default)
        return value

    def integer(self, key: str, *, low: int) -> int:
        """A whole number of at least `low`."""
        value: int = self._of_type(key, int, "a whole number")
        if value < low:
            raise CompanyError(f"{self.where}: {key} must be at least {low}, got {value}")
        return value

    def number(self, key: str) -> float:
        """A number above 0."""
        value: float = self._of_type(key, (int, float), "a number")
        if not value > 0:
            raise CompanyError(f"{self.where}: {key} must be above 0, got {value}")
        return float(value)

    def share(self, key: str) -> float:
        """A number from 0 to 1."""
        value: float = self._of_type(key, (int, float), "a number")
        if not 0 <= value <= 1:
            raise CompanyError(f"{self.where}: {key} must be between 0 and 1, got {value}")
        return float(value)

    def values(self, key: str) -> tuple[Any, ...]:
        """A list of anything."""
        return tuple(self._of_type(key, list, "a list"))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        values = self.values(key)
        if not all(isinstance(value, str) for value in values):
            raise CompanyError(f"{self.where}: {key} must be a list of texts")
        return values

    def table(self, key: str) -> "Table":
        """A table inside this one."""
        return Table(self._of_type(key, dict, "a table"), f"{self.where}, [{key}]")

    def tables(self, key: str) -> dict[str, "Table"]:
        """A table of tables, by name."""
        outer = self.table(key)
        return {name: outer.table(name) for name in outer._content}

    def list_of_tables(self, key: str) -> list["Table"]:
        """An array of tables; each is told from the others by its place."""
        rows = self.values(key)
        if not all(isinstance(row, dict) for row in rows):
            raise CompanyError(f"{self.where}: {key} must be an array of tables, [[{key}]]")
        return [
            Table(row, f"{self.where}, {key} {row.get('name', number)}")
            for number, row in enumerate(rows, 1)
        ]

    def text_values(self) -> dict[str, str]:
        """All of it, key → text."""
        return {key: self.text(key) for key in self._content}

    def lists_of_texts(self) -> dict[str, tuple[str, ...]]:
        """All of it, key → list of texts."""
        return {key: self.texts(key) for key in self._content}

    def done(self) -> None:
        """Refuse every key that nobody asked for."""
        unknown = sorted(set(self._content) - self._asked)
        if unknown:
            known = ", ".join(sorted(self._asked))
            raise CompanyError(f"{self.where}: unknown {', '.join(unknown)}; known: {known}")

    def _of_type(self, key: str, kind: Any, called: str, default: Any = _MISSING) -> Any:
        self._asked.add(key)
        value = self._content.get(key, default)
        if value is _MISSING:
            raise CompanyError(f"{self.where}: {key} is missing; expected {called}")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise CompanyError(f"{self.where}: {key} must be {called}, got {value!r}")
        return value
