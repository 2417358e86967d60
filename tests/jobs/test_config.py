"""What the user's own settings allow, and that nobody else's file is taken for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.trust import HOSTS
from jobs.config import trust_of


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "mangroves" / "settings.yaml"
    path.parent.mkdir()
    return path


def test_without_settings_nothing_is_added(settings: Path) -> None:
    assert trust_of(None).hosts == HOSTS


def test_settings_add_hosts_folders_and_stores(settings: Path, tmp_path: Path) -> None:
    settings.write_text(f"allow_hosts: [stac.example.org]\nallow_roots: [{tmp_path}, 's3://bucket/mine']\n")
    settings.chmod(0o600)
    trust = trust_of(None, hosts=("other.example.org",))
    assert trust.hosts == HOSTS | {"stac.example.org", "other.example.org"}
    assert tmp_path.resolve() in trust.roots
    assert trust.stores == ("s3://bucket/mine",)


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
def test_settings_that_others_can_write_are_refused(settings: Path, mode: int) -> None:
    settings.write_text("allow_hosts: [stac.example.org]\n")
    settings.chmod(mode)
    with pytest.raises(ConfigError, match="can be written by others than you; chmod go-w"):
        trust_of(None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("allow_host: [a]\n", "unknown key 'allow_host'; did you mean 'allow_hosts'"),
        ("allow_roots: [data]\n", "'data' is not an absolute folder"),
        ("- a\n", "is not a mapping"),
    ],
)
def test_wrong_settings_are_named(settings: Path, text: str, expected: str) -> None:
    settings.write_text(text)
    settings.chmod(0o600)
    with pytest.raises(ConfigError, match=expected):
        trust_of(None)
