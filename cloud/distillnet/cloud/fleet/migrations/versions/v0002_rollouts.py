"""Tags and rollouts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "device_tags",
        sa.Column("device", sa.String(63), sa.ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("tag", sa.String(63), primary_key=True),
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("application", sa.String(63), nullable=False, index=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("everyone", sa.Boolean, nullable=False),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("wave_started_ts", sa.Double),
        sa.Column("settled_ts", sa.Double),
        sa.Column("forgiven", sa.Integer, nullable=False),
        sa.Column("released", sa.Boolean, nullable=False),
        sa.Column("start_ts", sa.Double, nullable=False),
        sa.Column("created_ts", sa.Double, nullable=False),
        sa.Column("changed_ts", sa.Double, nullable=False),
        sa.Column("created_by", sa.String(63), nullable=False),
    )
    op.create_table(
        "rollout_devices",
        sa.Column("rollout", sa.Integer, sa.ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("device", sa.String(63), sa.ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("directive", sa.String(36), nullable=False),
        sa.Column("told_ts", sa.Double),
        sa.Column("done_ts", sa.Double),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("rollout_devices_state", "rollout_devices", ["rollout", "wave", "state"])


def downgrade() -> None:
    """Remove them."""
    for table in ("rollout_devices", "rollouts", "device_tags"):
        op.drop_table(table)
