"""The control plane's processes. People use the `espalier` command."""

import argparse
import logging
import sys

from appliance.core.errors import EspalierError
from appliance.core.home import Home


def main() -> int:
    """Run one process until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m appliance.control")
    parser.add_argument("process", choices=["serve", "supervise"])
    parser.add_argument("--home")
    arguments = parser.parse_args()
    home = Home.find(arguments.home)
    try:
        if arguments.process == "serve":
            from appliance.control.serve import serve

            serve(home)
        else:
            from appliance.control.supervisor import Supervisor

            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
            Supervisor(home).run()
    except EspalierError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
