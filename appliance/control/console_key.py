"""The key that the console talks with: an agent's key like any other, kept by the control plane.

What is said with it is logged like all traffic, and never teaches (policies/teaching.py).
"""

import threading

import sqlalchemy as sa

from appliance.control import programs
from appliance.control.steps import Ground
from appliance.core.digests import hash_key
from appliance.core.files import publish
from appliance.core.tables import keys
from policies.teaching import TALK

_making = threading.Lock()


def key(ground: Ground) -> str:
    """The key's secret; a new one where there is none, or it is good no more.

    Raises:
        ProgramError: none can be made.
    """
    path = ground.home.secrets / "console.key"
    with _making:
        if path.exists() and _is_good(ground, secret := path.read_text()):
            return secret
        team, project = TALK
        made = programs.run_now(
            "serving", "key", "add", "--team", team, "--project", project, "--agent", "console",
            "--label", ground.settings.gateway.label, "--exact", "--json", home=ground.home,
        )  # fmt: skip
        publish(path, made["key"].encode(), mode=0o600)
        return str(made["key"])


def _is_good(ground: Ground, secret: str) -> bool:
    good = sa.select(sa.func.count()).where(
        keys.c.key_hash == hash_key(secret),
        keys.c.revoked_at.is_(None),
        # Another label than the endpoint's would be refused there, or too low for what it says.
        keys.c.label == ground.settings.gateway.label,
        keys.c.exact,
    )
    with ground.database.read() as connection:
        return bool(connection.scalar(good))
