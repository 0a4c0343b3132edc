"""Events and telemetry samples."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "events",
        sa.Column("device", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("source", sa.String(63), nullable=False),
        sa.Column("zone", sa.String(63), nullable=False),
        sa.Column("event", sa.String(63), nullable=False),
        sa.Column("phase", sa.String(8), nullable=False),
        sa.Column("start_ts", sa.Double, nullable=False),
        sa.Column("end_ts", sa.Double),
        sa.Column("top_score", sa.Double, nullable=False),
        sa.Column("model_digest", sa.String(71), nullable=False),
    )
    op.create_index("events_by_time", "events", ["start_ts"])
    op.create_index("events_of_device", "events", ["device", "start_ts"])
    op.create_table(
        "samples",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("ts", sa.Double, nullable=False, index=True),
        sa.Column("reports", sa.Integer, nullable=False),
        sa.Column("interval_s", sa.Double, nullable=False),
        sa.Column("model_digest", sa.String(71), nullable=False),
        sa.Column("frames", sa.Integer, nullable=False),
        sa.Column("dropped", sa.Integer, nullable=False),
        sa.Column("gated", sa.Integer, nullable=False),
        sa.Column("infer_p50_ms", sa.Double, nullable=False),
        sa.Column("end_to_end_p50_ms", sa.Double, nullable=False),
        sa.Column("end_to_end_p99_ms", sa.Double, nullable=False),
        sa.Column("cpu_share", sa.Double, nullable=False),
        sa.Column("rss_bytes", sa.BigInteger, nullable=False),
        sa.Column("temperature_c", sa.Double),
    )
    op.create_index("samples_of_device", "samples", ["device", "ts"])


def downgrade() -> None:
    """Remove them."""
    for table in ("samples", "events"):
        op.drop_table(table)
