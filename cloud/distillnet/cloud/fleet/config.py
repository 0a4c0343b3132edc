"""The service's configuration: `serve.toml` and the options of `distillnet serve`. Read once, at the edge."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from distillnet.proto.strict import Strict, load_toml


class ListenSection(Strict):
    """`[listen]`: where the service is found."""

    host: str = "127.0.0.1"
    port: int = Field(default=7443, ge=0, le=65535, description="mTLS; 0 = any free one")
    enroll_port: int = Field(
        default=7444, ge=0, le=65535, description="server TLS only, for boards without a certificate"
    )
    web_port: int | None = Field(default=None, ge=0, le=65535, description="dashboard and metrics, TLS; unset = off")
    names: list[str] = Field(default_factory=list, description="further names and addresses in the server certificate")
    public_address: str | None = Field(default=None, description="host:port told to boards; unset = host and port")


class StorageSection(Strict):
    """`[storage]`. Unset is inside the data directory."""

    database: str | None = Field(default=None, description="SQLAlchemy URL, e.g. postgresql+psycopg://user@host/fleet")
    objects: str | None = Field(default=None, description="object store URL, e.g. s3://bucket/prefix")
    report_days: float = Field(default=90.0, gt=0, description="how long update reports are kept")


class TrustSection(Strict):
    """`[trust]`: lifetimes."""

    device_days: float = Field(default=90.0, gt=0, le=825)
    server_days: float = Field(default=397.0, gt=30, le=825)
    root_days: float = Field(default=1825.0, gt=0)
    targets_days: float = Field(default=90.0, gt=0)
    snapshot_days: float = Field(default=30.0, gt=0)
    timestamp_days: float = Field(default=7.0, gt=0)


class FleetSection(Strict):
    """`[fleet]`."""

    heartbeat_s: float = Field(default=20.0, ge=0.2, le=3600, description="a stream silent for three of them is ended")
    poll_s: float = Field(default=0.25, ge=0.02, le=10, description="how often the database is asked for news")
    downloads: int = Field(
        default=256, ge=1, description="students served at once, some 2 MiB each; who comes then is told when to return"
    )
    enroll_failures_per_minute: int = Field(default=20, ge=1, description="per address, then it has to wait")


class MqttSection(Strict):
    """`[mqtt]`: the broker that devices tell events and telemetry to. Unset host = nothing is taken in."""

    host: str | None = None
    port: int = Field(default=1883, ge=1, le=65535)
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = Field(default=None, description="TLS, verified by this CA")
    certificate_file: Path | None = None
    key_file: Path | None = None
    group: str = Field(default="fleet", pattern=r"^[a-z0-9-]+$", description="services of one group share the messages")
    telemetry_days: float = Field(default=14.0, gt=0, description="then one sample per hour is kept")
    hourly_days: float = Field(default=400.0, gt=0)
    event_days: float = Field(default=90.0, gt=0)


class JobsSection(Strict):
    """`[jobs]`: where distillations run."""

    executor: Literal["local", "ray"] = "local"
    address: str | None = Field(default=None, description="of the Ray cluster, host:port; unset = this machine's")
    at_once: int = Field(default=1, ge=0, description="jobs this service runs at the same time; 0 = none")
    threads: int | None = Field(default=None, ge=1, description="per job; unset = all of this machine, one on Ray")
    gpus: float = Field(default=0.0, ge=0, description="per job, on Ray")
    directory: Path | None = Field(default=None, description="of work; on Ray shared by all nodes; unset = DATA/jobs")


class FeedbackSection(Strict):
    """`[feedback]`: pictures devices were unsure of, for `distill --from-fleet`. Devices send none unless told to."""

    per_day: int = Field(default=200, ge=0, description="examples taken of a device a day; 0 = none")
    days: float = Field(default=90.0, gt=0, description="how long they are kept")
    most: int = Field(default=10_000, ge=1, description="examples kept of an application: the newest")


class ServeConfig(Strict):
    """The whole file."""

    listen: ListenSection = ListenSection()
    storage: StorageSection = StorageSection()
    trust: TrustSection = TrustSection()
    fleet: FleetSection = FleetSection()
    mqtt: MqttSection = MqttSection()
    jobs: JobsSection = JobsSection()
    feedback: FeedbackSection = FeedbackSection()


def load(path: Path | None) -> ServeConfig:
    """Read `serve.toml`; None gives the defaults.

    Raises:
        ConfigError: what is wrong, one line per problem.

    """
    return load_toml(path, ServeConfig) if path else ServeConfig()
