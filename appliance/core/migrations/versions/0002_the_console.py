"""People who sign in, what they say and keep, and what the console looks things up by."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LAST = ("team", "project", "agent", "outcome", "adapter")


def upgrade() -> None:
    op.create_table(
        "dataset_members",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("trajectory_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("num_examples", sa.Integer(), nullable=False),
        sa.Column("num_corrections", sa.Integer(), nullable=False),
        sa.Column("excluded", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", "trajectory_id"),
    )
    op.create_index("ix_dataset_members_trajectory_id", "dataset_members", ["trajectory_id"])
    op.create_table(
        "trajectory_texts",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("trajectory_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("trajectory_id", name="uq_trajectory_texts_trajectory_id"),
    )
    op.execute("CREATE VIRTUAL TABLE trajectory_search USING fts5(body, tokenize='trigram')")
    op.create_table(
        "sessions",
        sa.Column("session_hash", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("csrf", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("session_hash"),
    )
    op.create_index("ix_sessions_name", "sessions", ["name"])
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("acts", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("token_id"),
        sa.UniqueConstraint("token_hash", name="uq_tokens_token_hash"),
    )
    op.create_index("ix_tokens_name", "tokens", ["name"])
    op.create_table(
        "failed_sign_ins",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("num_failed", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("ix_failed_sign_ins_last_at", "failed_sign_ins", ["last_at"])
    op.create_table(
        "proposals",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("replaces", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("proposer", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_proposals_state", "proposals", ["state"])
    op.create_table(
        "comments",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("suite", sa.Text(), nullable=True),
        sa.Column("item_id", sa.Text(), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_comments_round", "comments", ["round"])
    op.create_table(
        "marks",
        sa.Column("scorecard", sa.Text(), nullable=False),
        sa.Column("suite", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("viewed", sa.Boolean(), nullable=False),
        sa.Column("vote", sa.Text(), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("scorecard", "suite", "item_id", "person"),
    )
    with op.batch_alter_table("users") as users:
        users.add_column(sa.Column("label", sa.Text(), nullable=False, server_default="internal"))
        users.add_column(sa.Column("changed_at", sa.Float(), nullable=False, server_default="0"))
        users.add_column(sa.Column("ended_at", sa.Float(), nullable=True))
    with op.batch_alter_table("law") as law:
        law.add_column(sa.Column("accepted_by", sa.Text(), nullable=True))
    _number_the_approvals()
    op.create_index("ix_adapters_parent", "adapters", ["parent"])
    op.create_index("ix_adapters_dataset", "adapters", ["dataset"])
    op.create_index("ix_turns_ended_at", "turns", ["ended_at", "adapter", "started_at"])
    for name in _LAST:
        op.create_index(f"ix_trajectories_{name}_last", "trajectories", [name, "last_turn_at"])


def _number_the_approvals() -> None:
    """One person may decide again about the same candidate: in order, without a constraint."""
    op.rename_table("approvals", "approvals_1")
    for name in ("round", "adapter"):
        op.drop_index(f"ix_approvals_{name}", "approvals_1")
    op.create_table(
        "approvals",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("approver", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("digest", name="uq_approvals_digest"),
    )
    op.execute(
        "INSERT INTO approvals (digest, round, adapter, approver, record) "
        "SELECT digest, round, adapter, approver, record FROM approvals_1 ORDER BY rowid"
    )
    op.drop_table("approvals_1")
    for name in ("round", "adapter"):
        op.create_index(f"ix_approvals_{name}", "approvals", [name])
