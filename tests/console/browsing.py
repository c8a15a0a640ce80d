"""People in front of a real Chromium that reaches nothing but the console, and whatever it says."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Response, sync_playwright

from appliance.control.console.visits import COOKIE
from tests.console.company_law import PASSPHRASE
from tests.services.chromium import find_chromium

FLAGS = (
    "--no-sandbox",
    "--no-first-run",
    "--no-pings",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--metrics-recording-only",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_PATIENCE_MS = 15_000.0
_VIOLATIONS = """document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.effectiveDirective} refused ${event.blockedURI}`));"""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """The system's Chromium, without a window, with a profile of its own.

    While it is open, this thread has a running event loop: `asyncio.run` must wait.
    """
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        yield browser
        browser.close()


@dataclass(slots=True)
class Visitor:
    """One person's browser. What it asked for and complained about is kept."""

    context: BrowserContext
    url: str
    page: Page
    num_requests: int = 0
    offhost: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    @classmethod
    def enter(
        cls, browser: Browser, url: str, *, theme: str = "light", width: int = 1280,
        script: bool = True, height: int = 900, **options: Any,
    ) -> "Visitor":  # fmt: skip
        """Open a fresh profile at the console's `url`."""
        context = browser.new_context(
            viewport={"width": width, "height": height}, java_script_enabled=script, **options
        )
        context.add_cookies([{"name": "espalier_theme", "value": theme, "url": url}])
        context.add_init_script(_VIOLATIONS)
        context.set_default_timeout(_PATIENCE_MS)
        made = cls(context, url, context.new_page())
        context.on("request", lambda request: made._note(request.url))
        context.on("console", lambda said: made._hear(said.type, said.text))
        context.on("weberror", lambda error: made.complaints.append(str(error.error)))
        context.on("dialog", lambda dialog: made._dismiss(dialog))
        return made

    def sign_in(self, name: str, passphrase: str = PASSPHRASE) -> "Visitor":
        """Through the form, as people do."""
        self.open("/sign-in")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Passphrase").fill(passphrase)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(lambda url: "/sign-in" not in url)
        return self

    def come_with(self, other: "Visitor") -> "Visitor":
        """In the session of another browser of the same person."""
        kept = [one for one in other.context.cookies() if one["name"] == COOKIE]
        self.context.add_cookies(kept)  # type: ignore[arg-type] # what it gave, it takes
        return self

    def open(self, path: str) -> Response:
        """Go to a page; its answer."""
        # Not until the network is idle: a live page listens for ever.
        answer = self.page.goto(self.url + path, wait_until="load")
        assert answer is not None
        return answer

    def require_clean(self) -> None:
        """Fail if anything left this host, or the browser complained; then begin anew."""
        offhost, complaints, dialogs = self.offhost[:], self.complaints[:], self.dialogs[:]
        self.offhost.clear()
        self.complaints.clear()
        self.dialogs.clear()
        assert offhost == [], f"requests left this host: {offhost[:5]}"
        assert complaints == [], f"the browser complained: {complaints[:5]}"
        assert dialogs == [], f"a script ran: {dialogs}"

    def leave(self) -> None:
        """Close the profile."""
        self.context.close()

    def _note(self, url: str) -> None:
        self.num_requests += 1
        if urlsplit(url).hostname != urlsplit(self.url).hostname:
            self.offhost.append(url)

    def _hear(self, kind: str, text: str) -> None:
        # A page that is not there, or not allowed, is an answer that tests ask for.
        if kind == "error" and "the server responded with a status of 4" not in text:
            self.complaints.append(text)

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()
