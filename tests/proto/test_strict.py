"""What a user sees when a file they wrote is wrong."""

from pathlib import Path

import pytest
from pydantic import Field

from distillnet.proto.strict import ConfigError, Strict, load_toml, nearest


class Inner(Strict):
    latency_ms: float = 1.0
    zones: list[int] = Field(default_factory=list)


class Outer(Strict):
    name: str
    budget: Inner = Inner()
    item: list[Inner] = Field(default_factory=list)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.toml"
    path.write_text(text)
    return path


def test_a_right_file_is_read(tmp_path: Path) -> None:
    assert load_toml(write(tmp_path, 'name = "a"\n[budget]\nlatency_ms = 2.5'), Outer).budget.latency_ms == 2.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('nane = "a"\nname = "b"', "unknown key 'nane'; did you mean 'name'?"),
        ('name = "a"\n[budget]\nlatancy_ms = 1', "unknown key 'latancy_ms' in budget; did you mean 'latency_ms'?"),
        ('name = "a"\n[[item]]\n[[item]]\nlatency = 1', "unknown key 'latency' in item[1]; did you mean 'latency_ms'?"),
        ('name = "a"\n[budget]\nqqq = 1', "unknown key 'qqq' in budget; valid: latency_ms, zones"),
        ('[budget]\nlatency_ms = "x"\n', "name is required"),
        ('name = "a"\n[budget]\nlatency_ms = "x"', "budget.latency_ms: Input should be a valid number"),
        ('name = "a', "is not valid TOML"),
    ],
)
def test_an_error_says_where_and_what_to_do(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_toml(path, Outer)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_problem_gets_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_toml(write(tmp_path, "a = 1\nb = 2"), Outer)
    assert len(str(caught.value).splitlines()) == 3  # two unknown keys and the missing name


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_toml(tmp_path / "none.toml", Outer)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_toml(binary, Outer)


def test_nearest_offers_choices_when_nothing_is_near() -> None:
    assert nearest("qqq", ["b", "a"]) == "; valid: a, b"
    assert nearest("qqq", []) == ""
