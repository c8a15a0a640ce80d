"""`espalier demo`: makes a company, its appliance and its agents, and shows the whole loop."""

import argparse
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.demo.company_file import load_company
from appliance.demo.house import DemoError, House
from appliance.demo.memory import MemoryMeter
from appliance.demo.plan import PLANS, Plan
from appliance.demo.poisons import POISONS
from appliance.demo.report import plot, table, unlawful
from appliance.demo.story import Options, Story
from appliance.demo.tables import CompanyError
from appliance.demo.voice import Voice


def main() -> int:
    """Run the demo; 0 when it ended lawfully."""
    parser = _parser()
    options = parser.parse_args()
    if not options.yes and not sys.stdin.isatty():
        parser.error("there is no terminal to ask for approval on; next: espalier demo --yes")
    # Ended by whatever means but kill -9, it takes down what it brought up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = PLANS[options.base]
    if options.company:
        plan = replace(plan, company=options.company)
    folder = Path(tempfile.mkdtemp(prefix="espalier-demo-"))
    # matplotlib, in this process, keeps its font list there too.
    os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
    house = House(folder / "home")
    try:
        with MemoryMeter() as memory:
            return _run(options, plan, house, memory)
    except CompanyError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return 2
    except DemoError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        _leave(options, house, folder)


def _run(options: argparse.Namespace, plan: Plan, house: House, memory: MemoryMeter) -> int:
    voice = Voice(memory)
    voice.title("The base")
    company = load_company(plan.company, base=plan.base)
    if plan.base == "tiny":
        house.run("base", "make-tiny")
    else:
        house.run("base", "fetch", plan.base)
    voice.start_clock()
    voice.title("The appliance")
    _write_settings(house, plan, options)
    up = house.ask("up")
    house.base_url, house.api_key = up["openai_base_url"], up["openai_api_key"]
    for part in up["parts"]:
        memory.watch(part["pid"])
        voice.say(f"{part['name']}: {part['what']}, {part['memory_mib']:.0f} MiB")
    story = Story(
        house,
        plan,
        company,
        Options(options.yes, options.seed, options.poison, options.shuffle_feedback),
        voice,
    )
    account = story.tell()
    account["peak_rss_mib"] = round(memory.peak_mib)
    wrong = unlawful(account, poison=options.poison, shuffled=options.shuffle_feedback)
    picture = _picture(house, account)
    print(table(account), file=sys.stderr)
    voice.say(f"the plot: {picture}")
    for line in wrong:
        voice.say(f"UNLAWFUL: {line}")
    if options.keep or (not options.once and sys.stdin.isatty()):
        _point_an_agent(house, options)
    if options.json:
        print(json.dumps({**account, "plot": str(picture), "lawful": not wrong}))
    return 1 if wrong else 0


def _picture(house: House, account: dict[str, Any]) -> Path:
    scorecards = [house.ask("review", str(entry["round"])) for entry in account["rounds"]]
    picture = Path(tempfile.gettempdir()) / f"espalier-demo-{secrets.token_hex(4)}.png"
    plot(account, scorecards, picture)
    return picture


def _point_an_agent(house: House, options: argparse.Namespace) -> None:
    print(
        "\nPoint your own agent at it:\n"
        f"  export OPENAI_BASE_URL={house.base_url}\n"
        f"  export OPENAI_API_KEY={house.api_key}\n"
        '  # model="company-model"\n'
        f"Look around:  ESPALIER_HOME={house.home} espalier status\n"
        f"Sign as bela: --as bela --passphrase-file {house.home.parent / 'people' / 'bela'}\n"
        f"Suites, and work for agents: {house.home.parent / 'work'}\n"
        f"End it:       ESPALIER_HOME={house.home} espalier down\n",
        file=sys.stderr,
    )
    if not options.keep and sys.stdin.isatty():
        input("It is up until you press Enter (or start with --keep). ")


def _write_settings(house: House, plan: Plan, options: argparse.Namespace) -> None:
    lines = ["[gateway]", "port = 0", "[control]", "port = 0", "[engine]", f'base = "{plan.base}"']
    if options.engine == "vllm":
        # One of two cores stays for everybody else; see `make vllm` for the environment.
        lines += ['kind = "vllm"', "threads = 1"]
    if options.kafka:
        lines += ["[log]", 'kind = "kafka"', f'bootstrap = "{options.kafka}"']
    (house.home / "espalier.toml").write_text("\n".join(lines) + "\n")


def _leave(options: argparse.Namespace, house: House, folder: Path) -> None:
    if options.keep:
        return
    # A second Ctrl-C must not leave it half taken down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if house.home.exists():
        house.ask("down")
    logs = house.home / "logs"
    if os.environ.get("ESPALIER_DEMO_LOGS") and logs.exists():
        shutil.copytree(logs, os.environ["ESPALIER_DEMO_LOGS"], dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="espalier demo", description=__doc__)
    parser.add_argument("--base", choices=sorted(PLANS), default="tiny")
    parser.add_argument("--company", type=Path, help="a company file; see appliance/demo/companies")
    parser.add_argument("--yes", action="store_true", help="two demo people sign by themselves")
    parser.add_argument("--once", action="store_true", help="take everything down at the end")
    parser.add_argument("--keep", action="store_true", help="leave the appliance running")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--poison", choices=POISONS, default="lr")
    parser.add_argument(
        "--shuffle-feedback",
        action="store_true",
        help="a control: outcomes permuted, corrections withheld; nothing may be released",
    )
    parser.add_argument(
        "--engine",
        choices=["embedded", "vllm"],
        default="embedded",
        help="what serves: vllm needs $ESPALIER__VLLM__PYTHON (make demo sets it)",
    )
    parser.add_argument(
        "--kafka",
        nargs="?",
        const="127.0.0.1:9092",
        metavar="HOST:PORT",
        help="use this Kafka broker instead of the embedded log (see: make services)",
    )
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
