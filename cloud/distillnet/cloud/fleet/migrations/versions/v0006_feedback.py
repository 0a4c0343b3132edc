"""What devices give back: pictures they were unsure of, and what their layers cost."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "examples",
        sa.Column("application", sa.String(63), primary_key=True),
        sa.Column("device", sa.String(63), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("event", sa.String(63), nullable=False),
        sa.Column("source", sa.String(63), nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("threshold", sa.Double, nullable=False),
        sa.Column("model_digest", sa.String(71), nullable=False),
        sa.Column("received_ts", sa.Double, nullable=False, index=True),
    )
    op.create_index("examples_of_device", "examples", ["device", "received_ts"])
    op.create_table(
        "board_profiles",
        sa.Column("device", sa.String(63), sa.ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("board", sa.String(63), nullable=False, index=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("received_ts", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("board_profiles")
    op.drop_table("examples")
