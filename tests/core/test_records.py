"""Records: every version ever written can be read, and keeps its digest.

A golden file that no longer matches means that customers' records would change their identity.
Do not touch the file: give the changed record a new schema version, and write its golden file
with `python -m tests.golden`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from appliance.core.decisions import Approval
from appliance.core.digests import canonical_json
from appliance.core.errors import RecordError
from appliance.core.records import Event, Record, convert, decode, encode
from tests.golden.examples import EXAMPLES, path_of

_GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.json"))


def _subclasses(kind: type[Record]) -> Iterator[type[Record]]:
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def _kinds() -> dict[str, type[Record]]:
    """Kinds of appliance/core by the schemas that they read; other rooms keep their own."""
    return {
        schema: kind
        for kind in _subclasses(Record)
        if kind.__module__.startswith("appliance.core.") and "schema" in kind.__struct_fields__
        for schema in get_args(kind.__annotations__["schema"])
    }


def test_every_kind_of_record_has_a_golden_file() -> None:
    assert set(_kinds()) == {path.stem.replace("-", "/") for path in _GOLDEN}


@pytest.mark.parametrize("path", _GOLDEN, ids=lambda path: path.stem)
def test_a_golden_record_is_read_and_keeps_its_digest(path: Path) -> None:
    data = path.read_bytes()
    kind = _kinds()[json.loads(data)["schema"]]
    record = decode(data, kind)
    assert canonical_json(msgspec.to_builtins(record)) + b"\n" == data
    assert decode(encode(record), kind) == record
    assert decode(encode(record), kind).digest == record.digest


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: str(record.schema))
def test_what_this_version_writes_is_what_the_golden_file_holds(record: Record) -> None:
    assert canonical_json(msgspec.to_builtins(record)) + b"\n" == path_of(record).read_bytes()


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: str(record.schema))
def test_an_example_fills_in_every_field(record: Record) -> None:
    """A field that the golden file leaves at None or empty would not be guarded."""
    left_out = {"Target": {"trajectory_id", "session", "reference"}}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if name not in left_out.get(type(record).__name__, set()):
            assert value not in (None, "", (), {}), f"{type(record).__name__}.{name}"


def _approval(**changes: object) -> bytes:
    (approval,) = [one for one in EXAMPLES if isinstance(one, Approval)]
    return json.dumps({**msgspec.to_builtins(approval), **changes}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"schema":"approval/1"}',
        _approval(schema="approval/9"),
        _approval(schema="turn/1"),
        _approval(extra=1),
        _approval(decision="maybe"),
        _approval(round="1"),
        _approval(at=None),
    ],
    ids=[
        "empty",
        "cut",
        "list",
        "binary",
        "missing",
        "newer",
        "other",
        "unknown field",
        "unknown word",
        "text for number",
        "null",
    ],
)
def test_what_does_not_parse_is_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match="not a Approval"):
        decode(data, Approval)


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: str(record.schema))
def test_a_record_without_its_schema_is_refused(record: Record) -> None:
    """The default is for those who write; a reader would take any version's fields for its own."""
    value = msgspec.to_builtins(record)
    schema = value.pop("schema")
    says = f"not a {type(record).__name__}: expected schema .*'{schema}', got none"
    with pytest.raises(RecordError, match=says) as refusal:
        decode(json.dumps(value), type(record))
    assert refusal.value.next_step
    with pytest.raises(RecordError, match=says):
        convert(value, type(record))
    with pytest.raises(RecordError, match=r"got 'other/9'"):
        convert({**value, "schema": "other/9"}, type(record))


def test_a_value_is_converted_by_the_same_rules() -> None:
    value = json.loads(_approval())
    assert convert(value, Approval) == decode(_approval(), Approval)
    with pytest.raises(RecordError):
        convert({**value, "extra": 1}, Approval)


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        EXAMPLES[0].label = "secret"  # type: ignore[attr-defined]


def test_bytes_in_an_event_survive() -> None:
    (event,) = [one for one in EXAMPLES if isinstance(one, Event)]
    assert decode(encode(event), Event).blobs == event.blobs
