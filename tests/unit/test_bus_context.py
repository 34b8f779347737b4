"""Where the bus's options come from, and that no secret shows."""

# ruff: noqa: S105, S106 - the secrets of these tests protect nothing

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from callboard.bus.context import options_from_environment, write_context
from callboard.bus.options import BusOptions, dial_target
from callboard.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

CREDS = "-----BEGIN NATS USER JWT-----\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "nats" / "context").mkdir(parents=True)
    return tmp_path


def save(home: Path, name: str, **fields: object) -> None:
    (home / "nats" / "context" / f"{name}.json").write_text(json.dumps(fields))


def env(home: Path, **variables: str) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(home), "HOME": str(home), **variables}


def test_nothing_said_is_the_local_server(home: Path) -> None:
    assert options_from_environment(env(home)) == BusOptions(servers=("nats://127.0.0.1:4222",))


def test_the_home_directory_is_looked_into_without_xdg(tmp_path: Path) -> None:
    home = tmp_path / ".config"
    (home / "nats" / "context").mkdir(parents=True)
    save(home, "mine", url="nats://a:1")
    (home / "nats" / "context.txt").write_text("mine\n")
    assert options_from_environment({"HOME": str(tmp_path)}).addresses == ("a:1",)


def test_every_variable_has_its_place(home: Path) -> None:
    files = {name: home / name for name in ("creds", "cert", "key", "ca")}
    for file in files.values():
        file.write_text(CREDS)
    options = options_from_environment(
        env(
            home,
            NATS_URL="nats://a:1, tls://b",
            NATS_TOKEN="t",
            NATS_CREDS=str(files["creds"]),
            NATS_CERT=str(files["cert"]),
            NATS_KEY=str(files["key"]),
            NATS_CA=str(files["ca"]),
            NATS_INBOX_PREFIX="_INBOX.a",
        ),
        name="agent",
    )
    assert options == BusOptions(
        servers=("nats://a:1", "tls://b"),
        name="agent",
        token="t",
        creds=files["creds"],
        tls_cert=files["cert"],
        tls_key=files["key"],
        tls_ca=files["ca"],
        inbox_prefix="_INBOX.a",
    )


def test_the_selected_context_counts_and_the_asked_one_before_it(home: Path) -> None:
    save(home, "selected", url="nats://selected:1", inbox_prefix="_INBOX.s", tls_first=True, color_scheme="blue")
    save(home, "asked", url="nats://asked:1")
    (home / "nats" / "context.txt").write_text("selected")
    options = options_from_environment(env(home))
    assert (options.addresses, options.inbox_prefix, options.tls_first) == (("selected:1",), "_INBOX.s", True)
    assert options_from_environment(env(home, NATS_CONTEXT="asked")).addresses == ("asked:1",)
    path = home / "elsewhere.json"
    path.write_text('{"url": "nats://path:1"}')
    assert options_from_environment(env(home, NATS_CONTEXT=str(path))).addresses == ("path:1",)


def test_a_variable_replaces_its_field_only(home: Path) -> None:
    save(home, "c", url="nats://context:1", user="u", password="p")
    options = options_from_environment(env(home, NATS_CONTEXT="c", NATS_URL="nats://variable:1", NATS_USER="v"))
    assert (options.addresses, options.user, options.password) == (("variable:1",), "v", "p")
    argument = options_from_environment(env(home, NATS_CONTEXT="c", NATS_URL="nats://variable:1"), url="argument:1")
    assert (argument.addresses, argument.user) == (("argument:1",), "u")


def test_one_way_to_sign_in_is_used(home: Path) -> None:
    file = home / "file"
    file.write_text(CREDS)
    everything = {"creds": str(file), "nkey": str(file), "user": "u", "password": "p"}
    save(home, "user", **everything)
    options = options_from_environment(env(home, NATS_CONTEXT="user"))
    assert (options.user, options.password, options.creds, options.nkey) == ("u", "p", None, None)
    save(home, "creds", **everything | {"user": ""})
    options = options_from_environment(env(home, NATS_CONTEXT="creds"))
    assert (options.user, options.password, options.creds, options.nkey) == (None, None, file, None)


def test_a_key_without_its_certificate_is_refused(home: Path) -> None:
    key = home / "key"
    key.write_text(CREDS)
    with pytest.raises(ConfigurationError, match=r"a TLS key without its certificate: .*/key; set NATS_CERT too"):
        options_from_environment(env(home, NATS_KEY=str(key)))


def test_a_user_without_password_is_a_token(home: Path) -> None:
    options = options_from_environment(env(home, NATS_USER="secret"))
    assert (options.user, options.token) == (None, "secret")


def test_paths_are_expanded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    (home / "a.creds").write_text(CREDS)
    for written in ("~/a.creds", "$PLACE/a.creds", "${PLACE}/a.creds", f"file://{home}/a.creds"):
        save(home, "c", creds=written)
        assert options_from_environment(env(home, NATS_CONTEXT="c", PLACE=str(home))).creds == home / "a.creds"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"creds": "/absent"}, "creds"),
        ({"ca": "/absent"}, "ca"),
        ({"creds": "op://vault/item"}, "creds"),
        ({"nkey": "env://SEED"}, "nkey"),
        ({"token": "op://vault/item"}, "token"),
        ({"user": "u", "password": "env://P"}, "password"),
        ({"nsc": "nsc://a/b/c"}, "nsc"),
        ({"user_jwt": "x"}, "user_jwt"),
        ({"socks_proxy": "socks5://x"}, "socks_proxy"),
    ],
)
def test_what_cannot_be_used_names_file_and_field(home: Path, fields: dict[str, str], field: str) -> None:
    save(home, "c", **fields)
    with pytest.raises(ConfigurationError) as refused:
        options_from_environment(env(home, NATS_CONTEXT="c"))
    assert str(home / "nats" / "context" / "c.json") in refused.value.message
    assert f" {field} " in refused.value.message
    assert refused.value.details == {"path": field}


def test_what_a_variable_says_wrong_names_the_variable(home: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"NATS_CREDS: creds names no file: /absent"):
        options_from_environment(env(home, NATS_CREDS="/absent"))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"url": 1}', b"\xff", None])
def test_a_context_that_is_none_names_its_file(home: Path, content: bytes | None) -> None:
    path = home / "nats" / "context" / "c.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        options_from_environment(env(home, NATS_CONTEXT="c"))
    assert str(path) in refused.value.message


@pytest.mark.parametrize("name", ["../c", "a/b", "a\\b", ".."])
def test_a_name_does_not_leave_the_directory(home: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="not the name"):
        options_from_environment(env(home, NATS_CONTEXT=name))
    with pytest.raises(ConfigurationError, match="not the name"):
        write_context(name, url="nats://a", environment=env(home))


@pytest.mark.parametrize(
    "url", ["ws://a:1", "http://a", "nats://", "nats://a:99999", "nats://a:b", "nats://[", "u:p@ws://x"]
)
def test_what_is_no_server_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigurationError, match="nats://host:port"):
        BusOptions(servers=(url,))


@pytest.mark.parametrize("prefix", ["", "_INBOX.", "_INBOX.>", "a b"])
def test_what_is_no_inbox_prefix_is_refused(home: Path, prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="inboxes"):
        BusOptions(inbox_prefix=prefix)
    assert options_from_environment(env(home, NATS_INBOX_PREFIX="")).inbox_prefix == "_INBOX"


def test_no_server_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="NATS_URL"):
        BusOptions(servers=())


def test_a_secret_in_a_bad_url_does_not_show() -> None:
    with pytest.raises(ConfigurationError) as refused:
        BusOptions(servers=("nats://u:hunter2@host:x",))
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_credentials_leave_the_url() -> None:
    assert dial_target("nats://u:p%40ss@h").url == "nats://h:4222"
    assert dial_target("nats://u:p%40ss@h").password == "p@ss"
    assert dial_target("tls://t%2Fk@h:1").token == "t/k"
    assert dial_target("[::1]:1").url == "nats://[::1]:1"


def test_no_secret_in_repr() -> None:
    options = BusOptions(servers=("nats://u:hunter2@h",), user="u", password="hunter3", token="hunter4")
    assert "hunter" not in repr(options)
    assert "hunter" not in repr(dial_target(options.servers[0]))
    assert options.addresses == ("h:4222",)


def test_a_written_context_is_private_and_read_back(tmp_path: Path) -> None:
    environment = env(tmp_path / "new")
    path = write_context("callboard-dev", url="nats://token@127.0.0.1:1", description="d", environment=environment)
    write_context("callboard-dev", url="nats://token@127.0.0.1:2", environment=environment)
    assert path == tmp_path / "new" / "nats" / "context" / "callboard-dev.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["url"] == "nats://token@127.0.0.1:2"
    environment["NATS_CONTEXT"] = "callboard-dev"
    assert options_from_environment(environment).addresses == ("127.0.0.1:2",)
    assert [file.name for file in path.parent.iterdir()] == ["callboard-dev.json"]
