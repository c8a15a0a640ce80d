"""`python -m tests.golden`: write the golden file of each schema that has none yet.

It never changes one that is there: such a file stands for records that customers keep.
"""

import msgspec

from appliance.core.digests import canonical_json
from tests.golden.examples import EXAMPLES, path_of


def main() -> None:
    """Write what is missing and say so."""
    for record in EXAMPLES:
        path = path_of(record)
        if not path.exists():
            path.write_bytes(canonical_json(msgspec.to_builtins(record)) + b"\n")
            print(f"wrote {path}: {record.digest}")


if __name__ == "__main__":
    main()
