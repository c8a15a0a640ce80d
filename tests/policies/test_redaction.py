"""Secrets of every kind are replaced; ids and ordinary code are not."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import PolicyError
from policies import redaction
from policies.redaction import parse_rules, redact, redact_json

RULES_TEXT = Path(redaction.__file__).with_suffix(".toml").read_text()
RULES = parse_rules(RULES_TEXT, b"0123456789abcdef")
TRAJECTORIES = Path(__file__).parents[3] / "shared" / "data" / "trajectories"

# Made up, and written in pieces, so that nobody takes this file for a leak.
RANDOM = "Zk3" + "vQ9xLmP2rT7wYbN4cD8fG1hJ6sK5aE0u"
HEX = "9f86d081884c7d65" + "9a2feaa0c55ad015"

SECRETS: dict[str, tuple[str, str]] = {
    "aws-access-key": ("AKIA" + "Q3EGRZ7XK2PLM4TN", "key is {} here"),
    "aws-secret-key": (
        "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
        "aws_secret_access_key = {}",
    ),
    "github-token": ("ghp_" + RANDOM + "A1b2", "git clone with {}"),
    "gitlab-token": ("glpat-" + RANDOM[:20], "PRIVATE {}"),
    "slack-token": ("xoxb-" + "123456789012-abcdefABCDEF", "{}"),
    "slack-webhook": (
        "T0AAAAAAA/B0BBBBBBB/" + RANDOM[:24],
        "https://hooks.slack.com/services/{}",
    ),
    "jwt": ("eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxIn0.dBjftJeZ4CVPmB92K27u", "cookie={}"),
    "anthropic-key": ("sk-ant-" + "api03-" + RANDOM, "{}"),
    "openai-key": ("sk-proj-" + RANDOM, "client = OpenAI('{}')"),
    "espalier-key": ("esp-" + (RANDOM * 2)[:43], "{}"),
    "google-key": ("AIza" + (RANDOM + RANDOM)[:35], "{}"),
    "stripe-key": ("sk_live_" + RANDOM[:24], "{}"),
    "huggingface-token": ("hf_" + RANDOM, "{}"),
    "package-registry-token": ("npm_" + (RANDOM + RANDOM)[:36], "//registry/:_auth {}"),
    "cloud-token": ("dapi" + HEX, "{}"),
    "azure-storage-key": (RANDOM * 2 + "==", "AccountName=x;AccountKey={};"),
    "bearer-token": (RANDOM, "Authorization: Bearer {}"),
    "basic-credentials": ("dXNlcjpwYXNzd29yZA==", "Authorization: Basic {}"),
    "connection-password": ("s3cr3t!", "postgres://app:{}@db.internal:5432/main"),
    "secret-assignment": (RANDOM, 'api_key="{}"'),
    "quoted-password": ("hunter2!", 'password = "{}"'),
    "environment-secret": ("hunter2!", "export DB_PASSWORD={}"),
    "private-key": (
        "\nMIIEowIBAAKCAQEA" + RANDOM + "\n" + RANDOM + "\n",
        "-----BEGIN RSA PRIVATE KEY-----{}-----END RSA PRIVATE KEY-----",
    ),
    "private-key-cut-off": (
        "MIIEowIBAAKCAQEA" + RANDOM + "\\n" + RANDOM,
        "-----BEGIN OPENSSH PRIVATE KEY-----\\n{}",
    ),
}

OTHER_FORMS: dict[str, tuple[str, str]] = {
    "json": (RANDOM, '{{"client_secret": "{}"}}'),
    "json in json": (RANDOM, '{{\\"access_token\\": \\"{}\\"}}'),
    "yaml": (RANDOM, "api_key: {}"),
    "query": (RANDOM, "https://api.internal/v1?token={}&page=2"),
    "curl": (RANDOM, "curl -H 'authorization: bearer {}'"),
    "key=value string": ("s3cr3t!", "Server=db;User Id=sa;Password={};Encrypt=yes"),
    "redis": ("s3cr3t!", "redis://:{}@cache:6379/0"),
    "github fine-grained": ("github_pat_" + "11ABCDEFG0" + RANDOM, "{}"),
}

INNOCENT = [
    "call_9f86d081884c7d659a2feaa0c55ad015",
    "chatcmpl-9f86d081884c7d659a2feaa0c55a",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "commit 3b18e512dba79e4c8300dd08aeb37f8e728b8dad",
    "credit_card_7815826 gift_card_4421486 certificate_9984806 user mia_li_3668",
    '{"payment_id": "credit_card_4421486", "reservation_id": "4WQ150"}',
    "token = tokenizer.tokenize(text)",
    "max_tokens=4096, num_tokens: 128",
    "password = request.form['password']",
    'password = os.environ["DB_PASSWORD"]',
    "password: str = Field(min_length=8)",
    "postgres://app:${DB_PASSWORD}@db/main and redis://localhost:6379/0",
    'f"https://{user}:{password}@{host}"',
    "Authorization: Bearer {token}",
    "Authorization: Bearer <your-token>",
    "the bearer of good news",
    "secret = base64.b64decode(payload)",
    "access_key = config.get_secret_value_v2(name)",
    "api_key = os.getenv('API_KEY')",
    'if "-----BEGIN PRIVATE KEY-----" in text:',
    "class=sk-fading-circle-animation-delay",
    "key: value, primary_key=True, foreign_key = 'users.id'",
    "the task-12345678901234567890 is done, risk-adjusted-return-1234567890",
    "def test_token(self): self.assertEqual(token.type, TokenType.NAME)",
    "x" * 5000,
]


@pytest.mark.parametrize("rule", SECRETS)
def test_a_secret_of_each_kind_is_replaced(rule: str) -> None:
    secret, context = SECRETS[rule]
    clean, found = redact(context.format(secret), RULES)
    assert secret.strip() not in clean
    assert found == (rule,)
    assert f"[redacted:{rule}:{RULES.tag(secret)}]" in clean


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_other_ways_to_write_one(form: str) -> None:
    secret, context = OTHER_FORMS[form]
    clean, found = redact(context.format(secret), RULES)
    assert secret not in clean
    assert found


def test_every_rule_has_a_case() -> None:
    assert {rule_id for rule_id, _, _ in RULES.compiled} == set(SECRETS)


@pytest.mark.parametrize("text", INNOCENT)
def test_ids_and_ordinary_code_are_left_alone(text: str) -> None:
    assert redact(text, RULES) == (text, ())


def test_only_the_secret_is_replaced() -> None:
    clean, _ = redact("postgres://app:s3cr3t!@db.internal/main", RULES)
    before, _, after = clean.partition("[redacted:")
    assert before == "postgres://app:"
    assert after.endswith("]@db.internal/main")


def test_equal_secrets_stay_equal_and_the_key_decides_the_tag() -> None:
    secret = SECRETS["aws-access-key"][0]
    clean, _ = redact(f"{secret} and {secret}", RULES)
    first, _, second = clean.partition(" and ")
    assert first == second
    other = parse_rules(RULES_TEXT, b"another key of 16")
    assert redact(secret, other)[0] != first


def test_several_secrets_in_one_text() -> None:
    text = " ".join(context.format(secret) for secret, context in list(SECRETS.values())[2:6])
    clean, found = redact(text, RULES)
    assert len(found) == 4
    assert clean.count("[redacted:") == 4


@given(st.lists(st.sampled_from([c.format(s) for s, c in SECRETS.values()] + INNOCENT), max_size=6))
def test_redacting_twice_changes_nothing(parts: list[str]) -> None:
    clean, _ = redact("\n".join(parts), RULES)
    assert redact(clean, RULES) == (clean, ())


def walk(value: Any) -> tuple[Any, tuple[str, ...]]:
    return redact_json(value, partial(redact, rules=RULES))


def test_json_is_walked_and_names_are_context() -> None:
    value = {"a": [{"password": "hunter2!", "note": "hunter2!"}], "n": 3, "none": None}
    clean, found = walk(value)
    assert found == ("quoted-password",)
    assert clean["a"][0]["password"].startswith("[redacted:quoted-password:")
    assert clean["a"][0]["note"] == "hunter2!"
    assert (clean["n"], clean["none"]) == (3, None)


def test_clean_json_is_returned_as_it_is() -> None:
    value = {"messages": [{"role": "user", "content": "hello"}]}
    assert walk(value) == (value, ())
    assert walk(value)[0] is value


@pytest.mark.skipif(not TRAJECTORIES.exists(), reason="the data folder is not here")
def test_nothing_in_the_real_trajectories_is_taken_for_a_secret() -> None:
    files = [*TRAJECTORIES.rglob("*.json"), *TRAJECTORIES.rglob("*.traj")]
    assert files
    for path in files:
        assert walk(json.loads(path.read_text()))[1] == (), path.name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rule = []",
        "[[rule]]\nid = 'x'",
        "[[rule]]\nid='x'\ndescription='x'\nkeywords=['x']\nregex='('",
        "[[rule]]\nid='x'\ndescription='x'\nkeywords=[]\nregex='x'",
        "[[rule]]\nid='x'\ndescription='x'\nkeywords=['X']\nregex='x'",
        "[[rule]]\nid='x'\ndescription='x'\nkeywords=['x']\nregex='x'\nentropy=3",
        "not toml",
    ],
)
def test_rules_that_are_wrong_are_an_error(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_rules(text, b"0123456789abcdef")


def test_an_empty_key_is_an_error() -> None:
    with pytest.raises(PolicyError, match="16 bytes"):
        parse_rules(RULES_TEXT, b"")


@pytest.mark.parametrize(
    "text",
    ["token=" * 20_000, "token=1" * 20_000 + "(", "-----BEGIN PRIVATE KEY-----" * 4_000],
    ids=["names", "names and digits", "begins of keys"],
)
def test_no_text_takes_long(text: str) -> None:
    """Whoever sends a text must not hold up everybody else's answers."""
    begun = time.process_time()
    redact(text, RULES)
    assert time.process_time() - begun < 3
