"""Distillations to run."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("application", sa.String(63), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("log", sa.Text, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("restarts", sa.Integer, nullable=False),
        sa.Column("created_ts", sa.Double, nullable=False),
        sa.Column("started_ts", sa.Double),
        sa.Column("seen_ts", sa.Double),
        sa.Column("done_ts", sa.Double),
        sa.Column("created_by", sa.String(63), nullable=False),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("jobs")
