"""`python -m tests.services up|down|status [--json]`: the real servers that tests talk to."""

import argparse
import json
import sys

from tests.services.broker import Broker, BrokerError


def main() -> int:
    """Run one command; 0 when the broker is as asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    broker = Broker()
    try:
        if arguments.command == "up":
            broker.up()
        elif arguments.command == "down":
            broker.down()
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1
    status = broker.status()
    if arguments.json:
        print(json.dumps({"kafka": status}))
    elif status["running"]:
        print(f"kafka: {status['bootstrap']} (pid {status['pid']}, {status['rss_mib']} MiB)")
    else:
        print("kafka: not running")
    return 0 if status["running"] or arguments.command == "down" else 1


if __name__ == "__main__":
    sys.exit(main())
