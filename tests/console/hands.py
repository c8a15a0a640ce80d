"""A person without a mouse: everything is reached by Tab, and done by keys."""

import re
from dataclasses import dataclass

from playwright.sync_api import Locator

from tests.console.browsing import Visitor
from tests.console.company_law import PASSPHRASE

_TABS_MAX = 400


@dataclass(frozen=True, slots=True)
class Hands:
    """The keyboard of one visitor. Whatever cannot be reached by it fails the test."""

    visitor: Visitor

    def fill(self, label: str, text: str) -> None:
        """Write into a field, over what is there."""
        field = self._field(label)
        self.reach(field)
        self.visitor.page.keyboard.press("Control+a")
        self.visitor.page.keyboard.press("Delete")
        self.visitor.page.keyboard.insert_text(text)
        assert field.input_value() == text

    def choose(self, label: str, option: str) -> None:
        """Choose an option by its beginning, with the arrows."""
        field = self._field(label)
        self.reach(field)
        keys = self.visitor.page.keyboard
        keys.press("Home")
        for _ in range(field.locator("option").count()):
            chosen = field.locator("option:checked").inner_text()
            if chosen.startswith(option):
                return
            keys.press("ArrowDown")
        raise AssertionError(f"no option of {label!r} begins with {option!r}")

    def press(self, name: str) -> None:
        """Press a button."""
        self._do(self.visitor.page.get_by_role("button", name=name, exact=True), "Enter")

    def follow(self, name: str) -> None:
        """Follow a link."""
        self._do(self.visitor.page.get_by_role("link", name=name, exact=True), "Enter")

    def unfold(self, summary: str) -> None:
        """Open what is folded away."""
        named = re.compile(rf"^\s*{re.escape(summary)}\s*$")
        found = self.visitor.page.locator("summary").filter(has_text=named)
        self._do(found, "Enter")

    def sign(self) -> None:
        """Give the passphrase."""
        self.fill("Passphrase", PASSPHRASE)

    def reach(self, target: Locator) -> None:
        """Tab from where the focus is to the target; it goes round at the page's end."""
        target.wait_for(state="visible")
        for _ in range(_TABS_MAX):
            if target.evaluate("one => one === document.activeElement"):
                return
            self.visitor.page.keyboard.press("Tab")
        raise AssertionError(f"{target} is not reached by Tab")

    def _field(self, label: str) -> Locator:
        named = re.compile(rf"^{re.escape(label)}( optional)?$")
        return self.visitor.page.get_by_label(named).locator("visible=true").first

    def _do(self, target: Locator, key: str) -> None:
        self.reach(target.locator("visible=true").first)
        self.visitor.page.keyboard.press(key)
