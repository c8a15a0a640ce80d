"""A filled company, the real control plane over it, a real browser, and people who sign in.

What these are made of is in the modules beside: company, plane, browsing, addresses.
"""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.console.browsing import Visitor, open_browser
from tests.console.company import Company, Size, fill
from tests.console.plane import Plane, control_plane
from tests.services.axe import bring_axe
from tests.services.chromium import bring_chromium


def _skip(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@functools.cache
def why_no_chromium() -> str:
    """Why there is no browser; empty where there is one."""
    return bring_chromium()


@pytest.fixture(scope="session")
def company(tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A small one. Who changes something makes their own."""
    return fill(tmp_path_factory.mktemp("company") / "home", Size())


@pytest.fixture(scope="session")
def console(company: Company) -> Iterator[Plane]:
    """The control plane over that company."""
    with control_plane(company.home) as plane:
        yield plane


# Not for the whole session: while the driver is open no other test could use asyncio.run.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Where it cannot be had, tests are skipped; in CI they fail."""
    if reason := why_no_chromium():
        _skip(f"no browser here: {reason}")
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's script."""
    text, reason = bring_axe()
    if reason:
        _skip(f"no axe-core here: {reason}")
    return text


@pytest.fixture
def visitor(browser: Browser, console: Plane) -> Iterator[Callable[..., Visitor]]:
    """``visitor("ada", theme="dark")``: somebody signed in; without a name, nobody.

    The test fails at its end where a request left this host or the browser complained.
    """
    entered: list[Visitor] = []

    def enter(name: str = "", **options: Any) -> Visitor:
        one = Visitor.enter(browser, console.url, **options)
        entered.append(one)
        return one.sign_in(name) if name else one

    yield enter
    for one in entered:
        one.leave()
    for one in entered:
        one.require_clean()
