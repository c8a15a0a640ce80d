"""Whether a base is registered. The registry is the trainer's and the engines': control asks."""

from appliance.control import programs
from appliance.core.errors import NotFoundError
from appliance.core.home import Home


def require_base(home: Home, name: str) -> None:
    """Raise unless the home has a base of this name or digest.

    Raises:
        NotFoundError: it has not.
        ProgramError: the registry cannot be read.
    """
    found = programs.run_now("adapter_training", "base", "list", "--json", home=home)["bases"]
    names = [base["name"] for base in found]
    if name not in names + [base["base"] for base in found]:
        there = f"there is {', '.join(map(repr, names))}" if names else "there is none"
        raise NotFoundError(
            f"no base named {name!r} is registered in {home.root}: {there}",
            next_step="espalier base make-tiny, or espalier base fetch smollm2; [engine] base in "
            "espalier.toml names which one serves",
        )
