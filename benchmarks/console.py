"""What the console costs: every page over a big home, at the server and in a real browser.

``python -m benchmarks.console [--json] [--trajectories N] [--rounds N] [--samples N]``

A scratch home is filled (tests/console/company.py), the real control plane started over it, and
somebody signs in. Each page is asked for many times over one connection, ever with another id,
cursor or filter; what is timed is the whole answer as a client on this machine sees it. The first
request of each page comes before: an index is built then, once, and its time stands apart. Then
each page is asked for again with the tag that it bore, and loaded in Chromium, its assets warm.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.about import about
from tests.console.addresses import FILES, pages, routes, wander
from tests.console.asking import Asker
from tests.console.browsing import Visitor, open_browser
from tests.console.company import Company, Size, fill
from tests.console.plane import Plane, control_plane
from tests.services.chromium import bring_chromium

READER = "bela"
_DOOR = "/sign-in"
_ABOUT = ("processor", "cores", "load", "python", "fastapi", "uvicorn", "jinja2", "sqlalchemy")
_PAINT = """() => new Promise((found) => new PerformanceObserver((seen) => {
  for (const one of seen.getEntriesByName("first-contentful-paint")) found(one.startTime);
}).observe({ type: "paint", buffered: true }))"""


@dataclass(slots=True)
class Cost:
    """One page's."""

    first_ms: float = 0.0
    server_ms: list[float] = field(default_factory=list)
    noop_ms: list[float] = field(default_factory=list)
    num_changed: int = 0
    """Conditional requests that got the page again: something had been written meanwhile."""
    paint_ms: list[float] = field(default_factory=list)
    bytes_max: int = 0


def main() -> None:
    """Run, and print a table or one line of JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.console", description=__doc__)
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    parser.add_argument("--trajectories", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--samples", type=int, default=10_000, help="in the review")
    parser.add_argument("--requests", type=int, default=50, help="of each page")
    parser.add_argument("--loads", type=int, default=5, help="of each page in the browser")
    arguments = parser.parse_args()
    if reason := bring_chromium():
        sys.exit(f"no browser here: {reason}")
    size = Size(
        trajectories=arguments.trajectories, rounds=arguments.rounds, samples=arguments.samples
    )
    with tempfile.TemporaryDirectory() as scratch:
        company = fill(Path(scratch) / "home", size)
        with control_plane(company.home) as plane:
            result, costs = measure(company, plane, arguments.requests, arguments.loads)
    print(", ".join(f"{name} {result[name]}" for name in _ABOUT), file=sys.stderr)
    _print_table(costs)
    if arguments.json:
        print(json.dumps(result))


def measure(
    company: Company, plane: Plane, requests: int, loads: int
) -> tuple[dict[str, Any], dict[str, Cost]]:
    """The figures, and each page's."""
    costs = {route: Cost() for route in sorted(routes() - FILES)}
    assets = _ask(company, plane, costs, requests)
    _ask_again(company, plane, costs, requests)
    offhost, browser = _paint(company, plane, costs, loads)
    # After everything: its peak is the kernel's own count.
    rss_mib, peak_mib = _memory_mib(plane.pid)
    served = [took for cost in costs.values() for took in cost.server_ms]
    unchanged = [took for cost in costs.values() for took in cost.noop_ms]
    changed = sum(cost.num_changed for cost in costs.values())
    result = {
        **about("fastapi", "uvicorn", "jinja2", "sqlalchemy", "playwright"),
        "chromium": browser,
        "pages": len(costs),
        "trajectories": company.size.trajectories,
        "rounds": company.size.rounds,
        "samples": company.size.samples,
        "requests": len(served),
        "server_p50_ms": round(statistics.median(served), 2),
        "server_p99_ms": round(_p99(served), 2),
        "slowest_page_p99_ms": round(max(_p99(cost.server_ms) for cost in costs.values()), 2),
        "first_request_max_ms": round(max(cost.first_ms for cost in costs.values()), 2),
        "noop_p99_ms": round(_p99(unchanged), 2),
        "noop_share": round(len(unchanged) / (len(unchanged) + changed), 3),
        "first_paint_ms": round(max(statistics.median(c.paint_ms) for c in costs.values()), 1),
        "first_paint_median_ms": round(
            statistics.median(took for cost in costs.values() for took in cost.paint_ms), 1
        ),
        "page_kb_max": round(max(cost.bytes_max for cost in costs.values()) / 1000, 1),
        "assets_kb": round(assets / 1000, 1),
        "rss_mib": rss_mib,
        "rss_peak_mib": peak_mib,
        "offhost_requests": offhost,
    }
    return result, costs


def _ask(company: Company, plane: Plane, costs: dict[str, Cost], requests: int) -> int:
    """Ask for every page; returns the bytes of all assets that any of them names."""
    assets: set[str] = set()
    everywhere = wander(company)
    inside, outside = Asker(plane.url).sign_in(READER), Asker(plane.url)
    for route, cost in costs.items():
        asker = outside if route == _DOOR else inside
        for number in range(requests + 1):
            path = next(everywhere[route])
            answer = asker.get(path)
            if answer.status not in (200, 404):
                raise SystemExit(f"{path}: {answer.status}\n{answer.text[:400]}")
            if number == 0:
                cost.first_ms = answer.took_ms
                assets |= set(re.findall(r"(?:src|href)=\"(/static/[^\"#]+)", answer.text))
            else:
                cost.server_ms.append(answer.took_ms)
            cost.bytes_max = max(cost.bytes_max, len(answer.body))
    return sum(len(outside.get(path).body) for path in assets)


def _ask_again(company: Company, plane: Plane, costs: dict[str, Cost], requests: int) -> None:
    """Ask for every page with its tag, as a browser does that has it."""
    asker = Asker(plane.url).sign_in(READER)
    for route, cost in costs.items():
        path = pages(company)[route][0]
        if route == _DOOR:
            continue
        tag = asker.get(path).headers["etag"]
        for _ in range(requests):
            answer = asker.get(path, if_none_match=tag)
            if answer.status == 304:
                cost.noop_ms.append(answer.took_ms)
            else:
                cost.num_changed += 1
                tag = answer.headers["etag"]


def _paint(company: Company, plane: Plane, costs: dict[str, Cost], loads: int) -> tuple[int, str]:
    """Load every page; returns the requests that left this host, and the browser's version."""
    offhost = 0
    with open_browser() as browser:
        for name in ("", READER):
            visitor = Visitor.enter(browser, plane.url)
            if name:
                visitor.sign_in(name)
            for route, cost in costs.items():
                if (route == _DOOR) == bool(name):
                    continue
                for load in range(loads + 1):
                    visitor.open(pages(company)[route][0])
                    painted_ms = visitor.page.evaluate(_PAINT)
                    if load:
                        cost.paint_ms.append(painted_ms)
            offhost += len(visitor.offhost)
            visitor.leave()
        return offhost, browser.version


def _memory_mib(pid: int) -> tuple[float, float]:
    """(now, at most so far)."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    return round(int(found["VmRSS"]) / 1024, 1), round(int(found["VmHWM"]) / 1024, 1)


def _print_table(costs: dict[str, Cost]) -> None:
    print(f"{'':42} {'first':>8} {'p50':>8} {'p99':>8} {'304 p99':>8} {'paint':>8} {'kB':>8}")
    for route, cost in costs.items():
        again = f"{_p99(cost.noop_ms):8.1f}" if cost.noop_ms else f"{'':8}"
        print(
            f"{route:42} {cost.first_ms:8.1f} {statistics.median(cost.server_ms):8.1f} "
            f"{_p99(cost.server_ms):8.1f} {again} {statistics.median(cost.paint_ms):8.1f} "
            f"{cost.bytes_max / 1000:8.1f}"
        )


def _p99(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


if __name__ == "__main__":
    main()
