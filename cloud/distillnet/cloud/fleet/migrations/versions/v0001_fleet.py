"""Devices, certificates, tokens, students, assignments and reports."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "devices",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("created_ts", sa.Double, nullable=False),
        sa.Column("revoked_ts", sa.Double, index=True),
        sa.Column("last_seen_ts", sa.Double, nullable=False),
        sa.Column("instance", sa.String(64), index=True),
        sa.Column("session", sa.String(128), nullable=False),
        sa.Column("restricted", sa.Boolean, nullable=False),
        sa.Column("capabilities", sa.JSON, nullable=False),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(48), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("name", sa.String(63), nullable=False, index=True),
        sa.Column("not_after_ts", sa.Double, nullable=False),
        sa.Column("revoked_ts", sa.Double),
    )
    op.create_table(
        "tokens",
        sa.Column("secret_hash", sa.String(64), primary_key=True),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("applications", sa.JSON, nullable=False),
        sa.Column("created_ts", sa.Double, nullable=False),
        sa.Column("expires_ts", sa.Double, nullable=False, index=True),
        sa.Column("used_ts", sa.Double),
        sa.Column("used_by", sa.String(63), nullable=False),
        sa.Column("used_key", sa.String(64), nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("application", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False, index=True),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("boards", sa.JSON, nullable=False),
        sa.Column("minimum_runtime", sa.String(32), nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("card_json", sa.Text, nullable=False),
        sa.Column("published_ts", sa.Double, nullable=False),
    )
    op.create_table(
        "installed",
        sa.Column("device", sa.String(63), sa.ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("application", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
    )
    op.create_table(
        "assignments",
        sa.Column("device", sa.String(63), sa.ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("application", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer),
        sa.Column("directive", sa.String(36), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("changed_ts", sa.Double, nullable=False),
    )
    op.create_index("assignments_news", "assignments", ["state", "changed_ts"])
    op.create_table(
        "reports",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("device", sa.String(63), sa.ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
        sa.Column("ts", sa.Double, nullable=False, index=True),
        sa.Column("directive", sa.String(36), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("application", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("progress", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("durations_ms", sa.JSON, nullable=False),
    )
    op.create_index("reports_of_device", "reports", ["device", "id"])


def downgrade() -> None:
    """Remove them."""
    for table in ("reports", "assignments", "installed", "models", "tokens", "certificates", "devices"):
        op.drop_table(table)
