"""Suite files."""

from pathlib import Path

import msgspec
import pytest

from appliance.core.digests import digest_bytes, digest_json
from appliance.core.errors import RecordError
from appliance.core.records import Item
from appliance.evaluation.suites import make_suite, read_folder, read_suite, write_suite

HEAD = '{"suite": "s", "kind": "target"}'
ITEM = (
    '{"item_id": "a", "family": "f", "messages": [{"role": "user", "content": "x"}], '
    '"check": {"kind": "exact", "expected": "y"}}'
)
SCORED = ITEM.replace('"a"', '"b"').replace('"exact", "expected"', '"likelihood", "answer"')


def test_a_suite_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(f"{HEAD}\n{ITEM}\n")
    suite = read_suite(tmp_path / "s.jsonl")
    write_suite(tmp_path / "again.jsonl", suite)
    assert read_suite(tmp_path / "again.jsonl").digest == suite.digest
    assert suite.items[0].check == {"kind": "exact", "expected": "y"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty; its first line"),
        (HEAD, "has no items"),
        (ITEM, "line 1: not a Header"),
        (HEAD.replace("target", "held"), "line 1: .*held"),
        (f"{HEAD}\n{ITEM}\n{ITEM}", "line 3: item 'a' stands there twice"),
        (f"{HEAD}\n{ITEM[:-1]}", "line 2: not a Item"),
        (f"{HEAD}\n{ITEM.replace('family', 'familly')}", "line 2: .*familly"),
        (f"{HEAD}\n{ITEM.replace('exact', 'exakt')}", "line 2: not a check"),
        (f"{HEAD}\n{ITEM.replace('expected', 'wanted')}", "line 2: not a check"),
        (f"{HEAD}\n{SCORED.replace('answer', 'anser')}", "line 2: .*anser"),
        (f"{HEAD}\n{ITEM}\n{SCORED}", "mixes likelihoods with checks"),
    ],
)
def test_a_wrong_suite_names_the_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "s.jsonl").write_text(text)
    with pytest.raises(RecordError, match=says):
        read_suite(tmp_path / "s.jsonl")


def test_a_missing_file_and_a_folder_without_suites_say_so(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="No such file"):
        read_suite(tmp_path / "none.jsonl")
    with pytest.raises(RecordError, match="no suite"):
        read_folder(tmp_path)


def test_two_suites_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(f"{HEAD}\n{ITEM}\n")
    with pytest.raises(RecordError, match="the same name: s, s"):
        read_folder(tmp_path)


def test_the_items_digest_forgets_the_name_but_not_the_order() -> None:
    items = [
        Item(item_id=i, family="f", messages=(), check={"kind": "likelihood"}) for i in ("a", "b")
    ]
    one, two = make_suite("x", "target", items), make_suite("y", "protected", items)
    assert one.items_digest == two.items_digest
    assert make_suite("x", "target", items[::-1]).items_digest != one.items_digest


def test_a_language_is_sealed_with_the_suite_but_asks_for_no_new_answers() -> None:
    """Answers that were kept before items had a language are still the answers to them."""
    plain = Item(item_id="a", family="f", messages=(), check={"kind": "likelihood"})
    german = msgspec.structs.replace(plain, language="de")
    one, two = make_suite("x", "target", [plain]), make_suite("x", "target", [german])
    assert one.items_digest == two.items_digest
    assert one.digest != two.digest
    assert digest_bytes(two.sealed) == two.digest
    before = {"item_id": "a", "family": "f", "messages": [], "check": {"kind": "likelihood"}}
    assert one.items_digest == digest_json([{**before, "max_tokens": 64}])
