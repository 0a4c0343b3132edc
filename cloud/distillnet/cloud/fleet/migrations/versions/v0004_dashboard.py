"""Who is signed in to the dashboard."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "web_sessions",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("name", sa.String(63), nullable=False, index=True),
        sa.Column("expires_ts", sa.Double, nullable=False, index=True),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("web_sessions")
