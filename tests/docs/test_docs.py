"""The docs say what is there: records, commands, targets, links."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from appliance.control.command import PROGRAMS, _parser
from appliance.control.law import _check
from appliance.core import recipe, records
from appliance.core.recipe import Recipe, parse_recipe
from appliance.core.settings import Settings
from appliance.evaluation.suites import read_suite

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def record_classes() -> list[type[msgspec.Struct]]:
    return [
        value
        for module in (records, recipe)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, records.Record)
        and value.__module__ == module.__name__
        and value is not records.Record
    ]


@pytest.mark.parametrize("kind", record_classes(), ids=lambda kind: kind.__name__)
def test_the_page_of_records_names_every_field(kind: type[msgspec.Struct]) -> None:
    page = (ROOT / "docs" / "records.md").read_text()
    section = page.partition(f"\n## {kind.__name__}\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert told == {field.encode_name for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_exists(page: Path) -> None:
    commands = next(
        action.choices for action in _parser()._actions if action.dest == "verb" and action.choices
    )
    known = set(commands) | set(PROGRAMS)
    used = re.findall(r"(?:^|`)espalier ([a-z-]+)", page.read_text(), re.MULTILINE)
    assert set(used) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_on_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?\bmake ([a-z]+)(?=[` \n:])", page.read_text())) - {"a"} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_on_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_has_exactly_the_two_set_up_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"^make (demo|test)$", readme, re.MULTILINE) == ["demo", "test"]


def fences(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


FIRST_HOUR = ROOT / "docs" / "first-hour.md"


def test_the_recipe_on_the_page_is_a_recipe() -> None:
    (text,) = [one for one in fences(FIRST_HOUR, "toml") if "recipe/1" in one]
    read = parse_recipe(text)
    assert read != Recipe()
    assert read.leave_out[0].mark == ("<manual>", "</manual>")
    _check("recipe", text.encode())


def test_the_suite_on_the_page_is_a_suite(tmp_path: Path) -> None:
    (text,) = fences(FIRST_HOUR, "jsonl")
    path = tmp_path / "suite.jsonl"
    path.write_text(text)
    suite = read_suite(path)
    assert {item.check["kind"] for item in suite.items} == {"exact", "program"}
    _check("suite", text.encode())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_on_a_page_exists(page: Path) -> None:
    for text in fences(page, "toml"):
        if "schema" not in text:
            msgspec.convert(tomllib.loads(text), Settings)
