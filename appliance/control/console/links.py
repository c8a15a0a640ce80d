"""Addresses of samples: a suite and an item may be named by any text."""

from urllib.parse import quote, urlencode

import msgspec

from appliance.control.reading.sample_index import Filters


def sample_href(
    number: int, suite: str, item_id: str, asked: Filters | None = None, *, room: str = "samples"
) -> str:
    """The page of a sample (or ``blind``, ``texts/champion`` and the like), in a filtered order."""
    path = f"/rounds/{number}/{room}/{quote(suite, safe='')}/{quote(item_id, safe='')}"
    query = query_of(asked) if asked else ""
    return f"{path}?{query}" if query else path


def query_of(asked: Filters, **more: str) -> str:
    """The filters as a query, without those that let everything through."""
    given = {**msgspec.structs.asdict(asked), **more}
    return urlencode({name: value for name, value in given.items() if value})
