"""An address for every page of the console, on a filled home; a page without one fails a test."""

import random
from collections.abc import Iterator
from urllib.parse import quote, urlencode

from fastapi.routing import APIRoute

from appliance.control import console
from tests.console.company import Company
from tests.console.company_law import PEOPLE, SUITES
from tests.console.company_words import AGENTS, TEAMS
from tests.console.company_work import name_of

FILES = {
    "/live",
    "/rounds/{number}/card.md",
    "/rounds/{number}/texts/{part}/{sample:path}",
    "/trajectories/{trajectory_id}/record",
    "/trajectories/{trajectory_id}/text",
}
"""Routes that answer with something else than a page."""

ERROR = "/nowhere"
"""No route: the error page."""

NOBODY = "nobody"
"""Stands for a browser in which nobody is signed in."""


def reader_of(route: str) -> str:
    """Who looks: an approver where there is something to sign, nobody at the door, an admin."""
    if route == "/sign-in":
        return NOBODY
    return "bela" if "{number}" in route else "ada"


def routes() -> set[str]:
    """Every GET route of the console's routers."""
    return {
        route.path
        for router in console.routers()
        for route in router.routes
        if isinstance(route, APIRoute) and "GET" in (route.methods or ())
    }


def pages(company: Company) -> dict[str, list[str]]:
    """Route → addresses in it; the first is the one that is shown, others are states of it."""
    number, trajectory = company.waiting, f"/trajectories/{company.trajectory}"
    rounds, sample = f"/rounds/{number}", f"{company.suite}/{company.item}"
    return {
        "/": ["/"],
        "/sign-in": ["/sign-in"],
        "/account": ["/account"],
        "/rounds": ["/rounds", f"/rounds?before={number // 2}"],
        "/rounds/{number}": [
            f"/rounds/{number}",
            f"/rounds/{company.released}",
            f"/rounds/{company.failed}",
        ],
        "/rounds/{number}/checks": [f"{rounds}/checks", f"/rounds/{company.released}/checks"],
        "/rounds/{number}/samples": [f"{rounds}/samples", f"{rounds}/samples?change=gained"],
        "/rounds/{number}/samples/{sample:path}": [f"{rounds}/samples/{sample}"],
        "/rounds/{number}/blind/{sample:path}": [f"{rounds}/blind/{sample}"],
        "/rounds/{number}/data": [f"{rounds}/data", f"{rounds}/data?kind=left_out"],
        "/rounds/{number}/provenance": [f"{rounds}/provenance"],
        "/rounds/{number}/history": [f"{rounds}/history"],
        "/releases": ["/releases"],
        "/law": ["/law"],
        "/law/{kind}/{name}": ["/law/gates/gates", "/law/recipe/recipe"],
        "/audit": ["/audit", "/audit?act=user"],
        "/people": ["/people"],
        "/people/{name}": ["/people/bela", f"/people/{quote(PEOPLE[6][0], safe='')}"],
        "/suites": ["/suites"],
        "/suites/{name}": [f"/suites/{company.suite}"],
        "/suites/{name}/items/{item_id}": [f"/suites/{company.suite}/items/{company.item}"],
        "/suites/{name}/history": ["/suites/arithmetic/history"],
        "/suites/{name}/difference": ["/suites/arithmetic/difference?" + company.change],
        "/proposals/{number}": [
            f"/proposals/{company.proposal}",
            f"/proposals/{company.repeal}",
        ],
        "/talk": ["/talk", f"/talk?trajectory={company.trajectory}&node=2"],
        "/trajectories": [
            "/trajectories",
            "/trajectories?text=invoice",
            "/trajectories?text=nobody+said+this",
        ],
        "/trajectories/{trajectory_id}": [
            trajectory,
            f"{trajectory}?tokens=0",
            f"{trajectory}?correct=0",
            f"/trajectories/{company.many_turns}",
            f"/trajectories/{company.long}",
        ],
        "/adapters/{digest}": [f"/adapters/{company.candidate}"],
    }


def wander(company: Company, seed: int = 0) -> dict[str, Iterator[str]]:
    """Route → addresses without end: other ids, cursors and filters each time."""
    noise = random.Random(seed)
    asked = dict(pages(company).items())
    return {route: _wander(route, found, company, noise) for route, found in asked.items()}


def _wander(route: str, known: list[str], company: Company, noise: random.Random) -> Iterator[str]:
    yield from known
    while True:
        yield _another(route, company, noise) or noise.choice(known)


def _another(route: str, company: Company, noise: random.Random) -> str:
    """A page somewhere in the middle; empty where a route has no more than its few."""
    waiting, size = f"/rounds/{company.waiting}", company.size
    past = noise.randrange(1, size.rounds)
    one = f"{company.suite}/{company.suite}-{noise.randrange(min(size.samples // 2, 900)):05d}"
    trajectory = name_of(noise.randrange(size.trajectories))
    at = company.now - noise.random() * 30 * 86_400
    anything: dict[str, list[str]] = {
        "/rounds": [f"/rounds?before={past}"],
        "/rounds/{number}": [f"/rounds/{past}"],
        "/rounds/{number}/samples": [
            f"{waiting}/samples?position={noise.randrange(size.samples)}",
            f"{waiting}/samples?change={noise.choice(['regressed', 'gained', 'void'])}",
            f"{waiting}/samples?language={noise.choice(['ar', 'ja', 'de'])}&family=freight",
            f"{waiting}/samples?viewed=no",
        ],
        "/rounds/{number}/samples/{sample:path}": [f"{waiting}/samples/{one}"],
        "/rounds/{number}/blind/{sample:path}": [f"{waiting}/blind/{one}"],
        "/rounds/{number}/data": [
            f"{waiting}/data?after={trajectory}",
            f"{waiting}/data?reason=too_long",
            f"{waiting}/data?kind=corrected&team={TEAMS[0]}",
        ],
        "/rounds/{number}/provenance": [f"/rounds/{past}/provenance"],
        "/rounds/{number}/history": [f"/rounds/{past}/history"],
        "/releases": [f"/releases?before={noise.randrange(1, max(2, size.rounds // 4))}"],
        "/law/{kind}/{name}": ["/law/recipe/recipe"],
        "/audit": [f"/audit?before={noise.randrange(1, 5 * size.rounds)}", "/audit?act=round."],
        "/people/{name}": [f"/people/{quote(noise.choice(PEOPLE)[0], safe='')}"],
        "/suites/{name}": [f"/suites/{quote(noise.choice(list(SUITES)))}?after=50"],
        "/proposals/{number}": [f"/proposals/{noise.randrange(1, 7)}"],
        "/trajectories": [
            f"/trajectories?{urlencode(chosen)}"
            for chosen in (
                {"after": f"{at!r}_{trajectory}"},
                {"team": noise.choice(TEAMS), "outcome": "failed"},
                {"agent": noise.choice(AGENTS), "tier": "silver"},
                {"text": "Frachtposten", "after": noise.randrange(size.trajectories)},
                {"text": f"ticket {noise.randrange(size.trajectories):06d}"},
                {"adapter": company.champion},
            )
        ],
        "/trajectories/{trajectory_id}": [f"/trajectories/{trajectory}"],
    }
    return noise.choice(anything[route]) if route in anything else ""
