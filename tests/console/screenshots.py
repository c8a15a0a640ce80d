"""``python -m tests.console.screenshots``: a picture of every page, light and dark, two widths.

Written to docs/screenshots: a made-up company, the real control plane, the system's Chromium.
"""

import argparse
import io
import re
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tests.console.addresses import ERROR, FILES, NOBODY, pages, reader_of, routes
from tests.console.browsing import Visitor, open_browser
from tests.console.company import Company, Size, fill
from tests.console.plane import control_plane
from tests.services.chromium import bring_chromium

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
WIDTHS = (1280, 400)
THEMES = ("light", "dark")
HEIGHT_MAX = 1900
_COLOURS = 64
"""With fewer, the few pixels that say a state lose their colour."""


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(prog="tests.console.screenshots", description=__doc__)
    parser.add_argument("--to", type=Path, default=FOLDER)
    parser.add_argument("--only", default="", help="pages whose name has this in it")
    arguments = parser.parse_args()
    if reason := bring_chromium():
        sys.exit(f"no browser here: {reason}")
    arguments.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        company = fill(Path(scratch) / "home", Size())
        with control_plane(company.home) as plane:
            taken = _take(company, plane.url, arguments.to, arguments.only)
    print(f"{taken} pictures in {arguments.to}")


def names(company: Company) -> dict[str, tuple[str, str]]:
    """File name → reader and address, of every page and of some of their states."""
    known = pages(company)
    found = {
        _name(route): (reader_of(route), known[route][0]) for route in sorted(routes() - FILES)
    }
    trajectory = f"/trajectories/{company.trajectory}"
    return {
        **found,
        "error": ("ada", ERROR),
        "trajectory-tokens": ("ada", f"{trajectory}?tokens=0"),
        "trajectory-correct": ("ada", f"{trajectory}?correct=0"),
        "round-failed": ("bela", f"/rounds/{company.failed}"),
        "trajectories-none": ("ada", "/trajectories?text=nobody+said+this"),
    }


def _take(company: Company, url: str, folder: Path, only: str) -> int:
    taken = 0
    with open_browser() as browser:
        signed_in = {name: Visitor.enter(browser, url).sign_in(name) for name in ("ada", "bela")}
        for theme in THEMES:
            for width in WIDTHS:
                for name, (reader, path) in names(company).items():
                    if only not in name:
                        continue
                    one = Visitor.enter(browser, url, theme=theme, width=width)
                    if reader != NOBODY:
                        one.come_with(signed_in[reader])
                    one.open(path)
                    (folder / f"{name}-{width}-{theme}.png").write_bytes(_picture(one, width))
                    one.require_clean()
                    one.leave()
                    taken += 1
    return taken


def _picture(one: Visitor, width: int) -> bytes:
    # Charts are drawn, and the live wire is up, a moment after the page is there.
    one.page.wait_for_timeout(300)
    height = int(one.page.evaluate("document.documentElement.scrollHeight"))
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, HEIGHT_MAX)}
    return _fewer_colours(one.page.screenshot(full_page=True, clip=clip))  # type: ignore[arg-type]


def _fewer_colours(data: bytes) -> bytes:
    """A palette makes it a third as long, where Pillow is there to choose one."""
    if find_spec("PIL") is None:
        return data
    from PIL import Image

    packed = io.BytesIO()
    few = Image.open(io.BytesIO(data)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    few.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def _name(route: str) -> str:
    """``/rounds/{number}/checks`` → round-checks."""
    if route == "/":
        return "overview"
    parts = []
    for part, following in zip(
        (split := route.strip("/").split("/")), [*split[1:], ""], strict=True
    ):
        if not part.startswith("{"):
            parts.append(_SINGULAR.get(part, part) if following.startswith("{") else part)
    return re.sub(r"[^a-z-]", "", "-".join(parts))


_SINGULAR = {
    "rounds": "round",
    "people": "person",
    "trajectories": "trajectory",
    "suites": "suite",
    "items": "item",
    "samples": "sample",
    "law": "article",
    "proposals": "proposal",
    "adapters": "adapter",
}


if __name__ == "__main__":
    main()
