"""Who is asking: a person, and how sure we are of that just now."""

import msgspec

from appliance.core.errors import SignatureError
from policies import access
from policies.access import Act
from policies.labels import flows_to


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who signed in."""

    name: str
    role: str
    label: str
    """The highest label that this person may see."""
    acts: frozenset[str] | None = None
    """What the token that came allows; None without a token: all that the role does."""
    fresh: bool = False
    """The passphrase came with this very request."""

    def require(self, act: Act) -> None:
        """Raise unless this person may do this, now.

        Raises:
            ForbiddenError: the role, or the token, does not cover it.
            SignatureError: it needs the passphrase, and none came with the request.
        """
        access.require(self.role, act)
        access.require_in_scope(self.acts, act)
        access.require_signed(act, fresh=self.fresh)

    def require_fresh(self, what: str) -> None:
        """Raise unless the passphrase came with this request.

        Raises:
            SignatureError: it did not.
        """
        if not self.fresh:
            raise SignatureError(
                f"{what} needs your passphrase, not a session or a token",
                next_step="give your passphrase with the request",
            )

    def may(self, act: Act) -> bool:
        """Whether the role covers it; the passphrase may still be asked for."""
        return access.allows(self.role, act) and (self.acts is None or act in self.acts)

    def sees(self, label: str) -> bool:
        """Whether data with this label may be shown to this person."""
        return flows_to(label, self.label)
