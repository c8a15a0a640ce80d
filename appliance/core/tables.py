"""Every table of the database, in one place. Alembic's migrations make them (core/migrations).

Times are UTC seconds since the epoch. Digests are text. `record` columns hold a record's JSON.
"""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

# --- collectors -----------------------------------------------------------------------------

consumed = sa.Table(
    "consumed",
    metadata,
    sa.Column("collector", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True),
)
"""Events whose effect is in the database; written in the same transaction, it drops duplicates."""

turns = sa.Table(
    "turns",
    metadata,
    sa.Column("turn_id", sa.Text, primary_key=True),
    sa.Column("choice", sa.Integer, primary_key=True),
    sa.Column("trajectory_id", sa.Text, nullable=False, index=True),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("session", sa.Text, index=True),
    sa.Column("adapter", sa.Text, index=True),
    sa.Column("num_end_ids", sa.Integer),
    sa.Column("end_ids", sa.Text),
    sa.Column("end_text", sa.Text),
    sa.Column("record", sa.LargeBinary),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float, nullable=False),
    sa.Index("ix_turns_end_ids", "key_id", "end_ids"),
    sa.Index("ix_turns_end_text", "key_id", "end_text"),
    sa.Index("ix_turns_started_at", "key_id", "started_at"),
    sa.Index("ix_turns_ended_at", "ended_at", "adapter", "started_at"),
)
"""`record` is the turn's compressed JSON until it is sealed into its trajectory's object.

`end_ids` and `end_text` are digests of prompt and answer, for joining turns without a session.
"""

trajectories = sa.Table(
    "trajectories",
    metadata,
    sa.Column("trajectory_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("team", sa.Text, nullable=False),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("task", sa.Text),
    sa.Column("family", sa.Text),
    sa.Column("num_turns", sa.Integer, nullable=False),
    sa.Column("adapter", sa.Text),
    sa.Column("object", sa.Text),
    sa.Column("part", sa.Text, index=True),
    sa.Column("last_turn_at", sa.Float, nullable=False, index=True),
    sa.Column("changed_at", sa.Float, nullable=False, index=True),
    sa.Column("sealed_at", sa.Float),
    *(
        sa.Index(f"ix_trajectories_{name}_last", name, "last_turn_at")
        for name in ("team", "project", "agent", "outcome", "adapter")
    ),
)
"""`state` is ``open``, ``ending`` (its end was announced), ``sealed``, or ``merged`` (a late turn
showed it to be part of another one); the highest version is the current one. `part` names the
Parquet files that hold a sealed version; `changed_at` is when the collectors last took something
of it, from which idleness is counted."""

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("feedback_id", sa.Text, primary_key=True),
    sa.Column("turn_id", sa.Text, index=True),
    sa.Column("trajectory_id", sa.Text, index=True),
    sa.Column("session", sa.Text, index=True),
    sa.Column("reference", sa.Text, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
"""`feedback_id` is the key that gave it, a slash, and the id that it chose."""

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("held_out", sa.Text),
    sa.Column("round", sa.Integer, index=True),
    sa.Column("created_at", sa.Float, nullable=False),
)

dataset_members = sa.Table(
    "dataset_members",
    metadata,
    sa.Column("dataset", sa.Text, primary_key=True),
    sa.Column("trajectory_id", sa.Text, primary_key=True, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("num_examples", sa.Integer, nullable=False),
    sa.Column("num_corrections", sa.Integer, nullable=False),
    sa.Column("excluded", sa.Text, nullable=False),
)
"""What a dataset looked at, for lineage in both directions. `excluded` is the reason why nothing
(or, beside examples, not everything) of it was taken; empty where there is none."""

trajectory_texts = sa.Table(
    "trajectory_texts",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("trajectory_id", sa.Text, nullable=False, unique=True),
)
"""The row of `trajectory_search` (FTS5: ``rowid`` is `number`, ``body`` the text, by trigrams, so
that any language is found by a part of three characters) that holds a trajectory's words."""

# --- adapter_training -----------------------------------------------------------------------

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("content", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
    sa.Column("base", sa.Text, nullable=False),
    sa.Column("parent", sa.Text, index=True),
    sa.Column("dataset", sa.Text, nullable=False, index=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

# --- serving --------------------------------------------------------------------------------

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("key_hash", sa.Text, nullable=False, unique=True),
    sa.Column("team", sa.Text, nullable=False),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("exact", sa.Boolean, nullable=False),
    sa.Column("metrics", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
)
"""Agents' keys: 256 random bits, stored as SHA-256. `exact` permits @sha256:… and @base, `metrics`
permits /metrics."""

limits = sa.Table(
    "limits",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("limit", sa.Text, primary_key=True),
    sa.Column("amount", sa.Float, nullable=False),
)
"""`kind` is ``key``, ``agent`` or ``team``; `limit` a field of serving's `Limits`."""

pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("killed", sa.Boolean, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
"""Who may not ask now. Of what is `killed`, requests under way were ended too."""

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("units", sa.Float, nullable=False),
)
"""What a key used, by day (UTC, counted from the epoch); `units` at the prices of that day."""

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("adapter", sa.Text),
    sa.Column("previous", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
"""Append-only journal. The primary key is the compare-and-set: generation N + 1 exists once."""

# --- control --------------------------------------------------------------------------------

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("passphrase_hash", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False, server_default="internal"),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False, server_default="0"),
    sa.Column("ended_at", sa.Float),
)
"""`label` is the highest that the person may see. Somebody who left (`ended_at`) keeps the name.
Since `changed_at` role, label and passphrase are what they are; what was signed before it counts no
more."""

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("session_hash", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("csrf", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
)
"""Who is signed in to the console: 256 random bits in a cookie, stored as SHA-256."""

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("token_id", sa.Text, primary_key=True),
    sa.Column("token_hash", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("acts", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
)
"""People's API tokens. `acts` is a JSON list: what this one may do, of all that its person may."""

failed_sign_ins = sa.Table(
    "failed_sign_ins",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("num_failed", sa.Integer, nullable=False),
    sa.Column("last_at", sa.Float, nullable=False, index=True),
)
"""Wrong passphrases in a row, by the name that was typed (also one that nobody has)."""

law = sa.Table(
    "law",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("accepted_by", sa.Text),
)
"""What rounds are made and judged by: recipe, gates, suites, schedule. The last entry of a
(kind, name) is in force; whoever wrote it is an author of every round that it governs."""

proposals = sa.Table(
    "proposals",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("replaces", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("proposer", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("decided_by", sa.Text),
    sa.Column("decided_at", sa.Float),
)
"""Changes of protected suites. `object` is the suite that should be (empty: a repeal), `replaces`
the one that it was made from: accepted only while that one is in force. `state` is ``open``,
``accepted``, ``declined`` or ``overtaken``."""

rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("verdict", sa.Text),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("authors", sa.Text, nullable=False),
    sa.Column("order", sa.Text, nullable=False),
    sa.Column("champion", sa.Text),
    sa.Column("dataset", sa.Text),
    sa.Column("adapter", sa.Text),
    sa.Column("scorecard", sa.Text),
    sa.Column("lease_owner", sa.Text),
    sa.Column("lease_until", sa.Float, nullable=False, default=0.0),
    sa.Column("fencing", sa.Integer, nullable=False, default=0),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False),
)
"""`authors` is a JSON list of people. `order` is a JSON object of what was asked for and the
digests of the law in force, sealed when the round starts."""

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
    sa.Column("round", sa.Integer, nullable=False, index=True),
    sa.Column("adapter", sa.Text, nullable=False, index=True),
    sa.Column("approver", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
)
"""Append-only decisions. Of one person's about one candidate, the last one counts."""

comments = sa.Table(
    "comments",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("round", sa.Integer, nullable=False, index=True),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("suite", sa.Text),
    sa.Column("item_id", sa.Text),
    sa.Column("at", sa.Float, nullable=False),
)
"""What people say about a round, or about one sample of its scorecard."""

marks = sa.Table(
    "marks",
    metadata,
    sa.Column("scorecard", sa.Text, primary_key=True),
    sa.Column("suite", sa.Text, primary_key=True),
    sa.Column("item_id", sa.Text, primary_key=True),
    sa.Column("person", sa.Text, primary_key=True),
    sa.Column("viewed", sa.Boolean, nullable=False),
    sa.Column("vote", sa.Text),
    sa.Column("at", sa.Float, nullable=False),
)
"""A reader's ticks. `vote` is ``champion``, ``candidate`` or ``tie``."""

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("act", sa.Text, nullable=False, index=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("chain", sa.Text, nullable=False),
)
"""Append-only. `chain` is the digest of this entry and the one before it."""
