"""How the command line shows keys: what holds for each, what was used, what is left."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from appliance.core.database import Database
from serving.budgets import budgets_of, month_begin, shown, total
from serving.keys import Key, Scope
from serving.limits import Limits, list_limits
from serving.pauses import Pause, list_pauses
from serving.usage import Spent, load


def key_value(key: Key, limits: Mapping[Scope, Limits], stopped: Sequence[Pause]) -> dict[str, Any]:
    """A key, with the limits and pauses that hold for it: its own, its agent's and its team's."""
    return {
        **msgspec.to_builtins(key),
        "limits": [limits_value(scope, limits[scope]) for scope in key.scopes if scope in limits],
        "pauses": [pause_value(one) for one in stopped if one.scope in key.scopes],
    }


def key_line(value: Mapping[str, Any]) -> str:
    """One key, as `key_value` gives it, in a line."""
    made = time.strftime("%Y-%m-%d", time.gmtime(value["created_at"]))
    words = [value["key_id"], f"{value['team']}/{value['project']}/{value['agent']}"]
    words += [value["label"], "exact versions" if value["exact"] else "alias only", made]
    if value["revoked_at"]:
        return "  ".join([*words, "revoked"])
    words += [f"{one['kind']} {'killed' if one['killed'] else 'paused'}" for one in value["pauses"]]
    words += [f"{one['kind']} limited: {limits_line(one)}" for one in value["limits"]]
    return "  ".join(words)


def usage_value(database: Database, today: int) -> dict[str, Any]:
    """All limits with what their budgets have left, all pauses, and what was used."""
    days: dict[Scope, dict[int, Spent]] = defaultdict(lambda: defaultdict(Spent))
    for scopes, day, spent in load(database, since_day=month_begin(today)):
        for scope in scopes:
            days[scope][day].add(spent)
    used = sorted(days.items())
    return {
        "limits": [
            {
                **limits_value(scope, limits),
                "left": {b.limit: max(0.0, b.left) for b in budgets_of(limits, days[scope], today)},
            }
            for scope, limits in list_limits(database).items()
        ],
        "pauses": [pause_value(one) for one in list_pauses(database)],
        "today": [_spent_value(scope, found[today]) for scope, found in used if today in found],
        "month": [_spent_value(scope, total(found, 0)) for scope, found in used],
    }


def usage_lines(value: Mapping[str, Any]) -> str:
    """The same for people."""
    today = {(one["kind"], one["name"]): one for one in value["today"]}
    nothing = _spent_value(Scope("key", ""), Spent())
    lines = [one["message"] for one in value["pauses"]]
    lines += [f"{_scope(one)}: {limits_line(one)}" for one in value["limits"]]
    lines += [
        f"{_scope(one)}: today {_spent_line(today.get((one['kind'], one['name']), nothing))}; "
        f"this month {_spent_line(one)}"
        for one in value["month"]
    ]
    return "\n".join(lines) or "nothing is limited, paused or used this month"


def limits_value(scope: Scope, limits: Limits) -> dict[str, Any]:
    """What is set on a scope."""
    return {**scope._asdict(), **msgspec.to_builtins(limits)}


def limits_line(value: Mapping[str, Any]) -> str:
    """The limits of one scope, with what is left where that is known."""
    left = value.get("left", {})
    found = [
        f"{name.replace('_', ' ')} {shown(value[name])}"
        + (f" ({shown(left[name])} left)" if name in left else "")
        for name in Limits.__struct_fields__
        if value[name] is not None
    ]
    return ", ".join(found) or "no limit"


def pause_value(stopped: Pause) -> dict[str, Any]:
    """A pause or a kill."""
    value: dict[str, Any] = msgspec.to_builtins(stopped)
    del value["scope"]
    return {**stopped.scope._asdict(), **value, "message": stopped.message}


def _spent_value(scope: Scope, spent: Spent) -> dict[str, Any]:
    return {**scope._asdict(), **msgspec.to_builtins(spent), "tokens": spent.tokens}


def _spent_line(value: Mapping[str, Any]) -> str:
    return f"{value['requests']} requests, {value['tokens']} tokens, {shown(value['units'])} units"


def _scope(value: Mapping[str, Any]) -> str:
    return str(Scope(value["kind"], value["name"]))
