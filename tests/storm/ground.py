"""The appliance that the storm goes over, its people and law, and the input, recorded first."""

import socket
from dataclasses import replace
from pathlib import Path

from appliance.demo.company import Company
from appliance.demo.company_file import load_company
from appliance.demo.house import House
from appliance.demo.plan import PLANS
from appliance.demo.suites import splits, write_suite, write_tasks
from appliance.demo.tasks import make_tasks

OPERATOR, APPROVERS = "olga", ("bela", "carl")
_LAW = Path(__file__).parent / "law"
_NUM_ITEMS = 20


def bring_up(folder: Path, *, seed: int, num_pieces: int) -> tuple[House, Path]:
    """An appliance that runs, and the file of what its agents will be asked to do."""
    house = House(folder / "home")
    house.home.mkdir(parents=True)
    gateway, control = _free_ports(2)
    # A part that is started anew must be found where it was; measuring threads would take time.
    (house.home / "espalier.toml").write_text(
        f"[gateway]\nport = {gateway}\n[control]\nport = {control}\n"
        '[engine]\nbase = "tiny"\nthreads = 1\n'
    )
    house.run("base", "make-tiny")
    company = load_company(PLANS["tiny"].company, base="tiny")
    recorded = write_tasks(
        make_tasks(company, "train", num_pieces, seed), folder / "recorded.jsonl"
    )
    up = house.ask("up")
    house.base_url, house.api_key = up["openai_base_url"], up["openai_api_key"]
    _set_the_law(house, company, seed, folder)
    return house, recorded


def _set_the_law(house: House, company: Company, seed: int, folder: Path) -> None:
    house.add_person("ada", "admin")
    house.add_person(OPERATOR, "operator", by="ada")
    for name in APPROVERS:
        house.add_person(name, "approver", by="ada")
    plan = replace(PLANS["tiny"], num_target=_NUM_ITEMS, num_protected=_NUM_ITEMS)
    files = [("recipe", _LAW / "recipe.toml"), ("gates", _LAW / "gates.toml")]
    files += [
        ("suite", write_suite(company, split, plan, seed, folder).path)
        for split in splits(company)
        if split.governs
    ]
    for kind, path in files:
        house.ask("law", "set", kind, str(path), person=OPERATOR)


def _free_ports(num: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(num)]
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports
