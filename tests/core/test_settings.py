"""Settings: where they come from, which source goes first, and what is said when one is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from rockbot.errors import ConfigError
from rockbot.processes import compose_host
from rockbot.settings import DEFAULT_HANDLERS, AgentSettings, HostSettings, Settings, load
from rockbot.settings_delivery import SubscriptionSettings
from rockbot_messaging.subscriptions import Rate, WorkSubscription


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("ROCKBOT_", "ANTHROPIC_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "rockbot.toml") -> Path:
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


@pytest.fixture
def secrets(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = empty_folder / "secrets"
    folder.mkdir()
    monkeypatch.setenv("ROCKBOT_SECRETS_DIR", str(folder))
    return folder


# -- sources


def test_nothing_set_gives_the_embedded_defaults() -> None:
    settings = load()
    assert settings.broker_url.get_secret_value() == "memory://"
    assert settings.model_name == "scripted/demo"
    assert settings.agents == {"assistant": AgentSettings()}
    assert settings.host == HostSettings()


def test_later_sources_go_before_earlier_ones(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().namespace == "rockbot"
    write('namespace = "file"')
    assert load().namespace == "file"
    (secrets / "namespace").write_text("secret\n")
    assert load().namespace == "secret"
    monkeypatch.setenv("ROCKBOT_NAMESPACE", "env")
    assert load().namespace == "env"
    assert load({"namespace": "flag"}).namespace == "flag"
    assert load({"namespace": None}).namespace == "env"


def test_sections_are_merged_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[host]\nprefetch = 7\nconcurrency = 3\n[agents.assistant]\ninstructions = 'x'\n[agents.coder]\n")
    monkeypatch.setenv("ROCKBOT_HOST__PREFETCH", "9")
    monkeypatch.setenv("ROCKBOT_AGENTS__ASSISTANT__MAX_MODEL_CALLS", "4")
    settings = load({"host": {"health_port": 81}})
    assert (settings.host.prefetch, settings.host.concurrency, settings.host.health_port) == (9, 3, 81)
    assert settings.agents["assistant"].instructions == "x"
    assert settings.agents["assistant"].max_model_calls == 4
    assert set(settings.agents) == {"assistant", "coder"}


def test_the_file_may_be_named_by_variable_or_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    write('namespace = "here"')
    monkeypatch.setenv("ROCKBOT_CONFIG", str(write('namespace = "named"', "other.toml")))
    assert load().namespace == "named"
    assert load(config=write('namespace = "given"', "third.toml")).namespace == "given"


def test_secret_files_reach_nested_keys_and_skip_what_is_hidden(secrets: Path) -> None:
    (secrets / "anthropic__api_key").write_text("the-key\n")
    (secrets / "ROCKBOT_BROKER_URL").write_text("amqp://u:pw@h")
    (secrets / "..data").mkdir()
    (secrets / ".hidden").write_text("x")
    settings = load()
    assert settings.anthropic.api_key is not None
    assert settings.anthropic.api_key.get_secret_value() == "the-key"
    assert settings.broker_url.get_secret_value() == "amqp://u:pw@h"


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        ('["default", "till"]', (*DEFAULT_HANDLERS, "till")),
        ('["till", "default"]', ("till", *DEFAULT_HANDLERS)),
        ('["agent", "default"]', ("agent", *(name for name in DEFAULT_HANDLERS if name != "agent"))),
    ],
)
def test_default_among_the_handlers_stands_for_those_that_come_with_rockbot(
    named: str, meant: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROCKBOT_HANDLERS", named)
    assert load().handlers == meant


def test_structured_values_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROCKBOT_HANDLERS", '["agent"]')
    assert load().handlers == ("agent",)


@pytest.mark.parametrize(
    "name",
    [
        "ROCKBOT_SERVICE_HOST",
        "ROCKBOT_SERVICE_PORT",
        "ROCKBOT_SERVICE_PORT_HTTP",
        "ROCKBOT_PORT",
        "ROCKBOT_PORT_8080_TCP",
        "ROCKBOT_PORT_8080_TCP_ADDR",
        "ROCKBOT_GATEWAY_SERVICE_HOST",
        "ROCKBOT_GATEWAY_PORT_80_TCP_PROTO",
        "ROCKBOT_TEST_ANYTHING",
    ],
)
def test_variables_that_kubernetes_puts_there_are_no_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:8080")
    assert load() == Settings()


# -- errors


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("namespac = 'x'", "unknown setting 'namespac' (from rockbot.toml, line 1); did you mean 'namespace'?"),
        ("[host]\nprefetc = 1", "unknown setting 'host.prefetc' (from rockbot.toml, line 2)"),
        (
            "[agents.assistant]\nmodle = 'x'",
            "unknown setting 'agents.assistant.modle' (from rockbot.toml, line 2); did you mean 'model'?",
        ),
        ("[host]\nprefetch = 0", "setting 'host.prefetch' (from rockbot.toml, line 2): Input should be greater than"),
        (
            "[host]\nlog_level = 'LOUD'",
            "setting 'host.log_level' (from rockbot.toml, line 2): Input should be 'DEBUG', 'INFO'",
        ),
        (
            "[host]\ndrain_seconds = inf",
            "setting 'host.drain_seconds' (from rockbot.toml, line 2): Input should be a finite",
        ),
        (
            "[agents.assistant]\ntimeout_seconds = nan",
            "setting 'agents.assistant.timeout_seconds' (from rockbot.toml, line 2)",
        ),
        ("[agents.assistant]\ntimeout_seconds = 1e300", "setting 'agents.assistant.timeout_seconds'"),
        ("namespace = 'a b'", "setting 'namespace' (from rockbot.toml, line 1): 'a b' is not a legal topic word"),
        ("[agents.'a b']", "setting 'agents' (from rockbot.toml, line 1): 'a b' is not a legal topic word"),
        ("default_agent = 'ghost'", "default_agent 'ghost' is not defined under [agents] (defined: assistant)"),
        ("[agents.coder]", "default_agent 'assistant' is not defined under [agents] (defined: coder)"),
        ("host = 5", "setting 'host' (from rockbot.toml, line 1): expected a table"),
        ("host = {", "the settings file rockbot.toml is not valid TOML: "),
    ],
)
def test_an_error_names_the_key_and_where_it_was_read(text: str, said: str) -> None:
    write(text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ROCKBOT_MODLE", "x", "the environment variable ROCKBOT_MODLE sets no setting: there is no key 'modle'; did"),
        ("ROCKBOT_CONFIGG", "x", "the environment variable ROCKBOT_CONFIGG sets no setting"),
        (
            "ROCKBOT_HOST__PREFETHC",
            "1",
            "unknown setting 'host.prefethc' (from the environment); did you mean 'prefetch",
        ),
        (
            "ROCKBOT_SUBSCRIPTIONS__TILL__RETRY__BACKOF",
            "none",
            "unknown setting 'subscriptions.till.retry.backof' (from the environment); did you mean 'backoff'?",
        ),
        ("ROCKBOT_HOST__PREFETCH", "many", "setting 'host.prefetch' (from the environment): Input should be a valid"),
        (
            "ROCKBOT_HANDLERS",
            "agent,llm",
            "the environment variable ROCKBOT_HANDLERS cannot be read: a list or a table",
        ),
        (
            "ROCKBOT_TOOLS__RUN",
            "crm",
            "setting 'tools.run' (from the environment): expected a list, in the environment as",
        ),
        ("ROCKBOT_HOST", "3", "setting 'host' (from the environment): expected a table"),
    ],
)
def test_an_error_names_the_environment(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value).startswith(said)


def test_an_error_names_the_last_source_that_set_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[host]\nprefetch = 5")
    monkeypatch.setenv("ROCKBOT_HOST__PREFETCH", "0")
    with pytest.raises(ConfigError, match=r"'host\.prefetch' \(from the environment\)"):
        load()
    with pytest.raises(ConfigError, match=r"'host\.prefetch' \(from command-line flags\)"):
        load({"host": {"prefetch": -1}})


def test_unknown_and_unreadable_secret_files_are_errors(secrets: Path) -> None:
    (secrets / "broker_ur").write_text("amqp://u:hidden@h")
    with pytest.raises(
        ConfigError, match=r"unknown setting 'broker_ur' \(from secret files in .*\); did you mean"
    ) as caught:
        load()
    assert "hidden" not in str(caught.value)
    (secrets / "broker_ur").unlink()
    (secrets / "model").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"the secret file .*model cannot be read"):
        load()


def test_a_section_set_whole_and_in_part_by_secret_files_is_an_error(secrets: Path) -> None:
    (secrets / "anthropic").write_text("{}")
    (secrets / "anthropic__api_key").write_text("x")
    with pytest.raises(ConfigError, match="'anthropic', which another one sets whole"):
        load()


def test_missing_files_and_folders_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"the settings file gone\.toml does not exist"):
        load(config=Path("gone.toml"))
    Path("folder").mkdir()
    with pytest.raises(ConfigError, match="the settings file folder cannot be read"):
        load(config=Path("folder"))
    Path("latin.toml").write_bytes(b'namespace = "\xe4"')
    with pytest.raises(ConfigError, match=r"latin\.toml cannot be read"):
        load(config=Path("latin.toml"))
    monkeypatch.setenv("ROCKBOT_SECRETS_DIR", "nowhere")
    with pytest.raises(ConfigError, match="ROCKBOT_SECRETS_DIR names 'nowhere', which is no folder"):
        load()


def test_several_errors_are_told_together() -> None:
    write("foo = 1\n[host]\nprefetch = 0")
    with pytest.raises(ConfigError, match=r"unknown setting 'foo'.*; .*|.*'host\.prefetch'.*; unknown setting 'foo'"):
        load()


# -- secrets


@pytest.mark.parametrize(
    "text",
    [
        'broker_url = "amqp://u:TOPSECRET@h"\nnamespac = 1',
        'broker_url = ["TOPSECRET"]',
        '[anthropic]\napi_key = { TOPSECRET = "TOPSECRET" }',
        'anthropic = "TOPSECRET"',
        'state_url = ["TOPSECRET"]',
    ],
)
def test_secrets_are_in_no_error(text: str) -> None:
    write(text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert "TOPSECRET" not in f"{caught.value!r}{caught.value.__cause__}"


def test_a_broken_secret_in_the_environment_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROCKBOT_ANTHROPIC", '{"api_key": "TOPSECRET"')
    with pytest.raises(ConfigError) as caught:
        load()
    assert "TOPSECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[agents.assistant]\nmax_waiting = -1", "agents.assistant.max_waiting"),
        ("[host]\nmax_body_bytes = 4095", "host.max_body_bytes"),
    ],
)
def test_limits_that_nothing_could_keep_are_refused(text: str, key: str) -> None:
    write(text)
    with pytest.raises(ConfigError, match=key):
        load()


def test_secrets_are_in_no_repr() -> None:
    write(
        'broker_url = "amqp://u:TOPSECRET@h"\nstate_url = "postgresql://u:TOPSECRET@h/db"\n'
        '[anthropic]\napi_key = "TOPSECRET"'
    )
    settings = load()
    assert "TOPSECRET" not in f"{settings!r}{settings}{settings.anthropic!r}"
    assert settings.state_address == "postgresql://u:TOPSECRET@h/db"


# -- what follows from them


def test_a_key_in_the_environment_switches_the_model_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant")
    assert load().model_name.startswith("anthropic/")
    monkeypatch.setenv("ROCKBOT_MODEL", "scripted/other")
    assert load().model_name == "scripted/other"


def test_an_anthropic_key_among_the_settings_switches_the_model_on_too() -> None:
    assert load({"anthropic": {"api_key": "sk-ant"}}).model_name.startswith("anthropic/")


def test_state_and_socket_live_in_the_users_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert load().state_address == "sqlite:////state/rockbot/state.db"
    assert load().socket_path == Path("/state/rockbot/rockbot.sock")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/me")
    assert load().socket_path == Path("/run/me/rockbot.sock")
    assert load({"socket": "/x.sock", "state_url": "memory://"}).socket_path == Path("/x.sock")
    assert load({"state_url": "memory://"}).state_address == "memory://"


def test_the_documented_subscription_settings_are_settings() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert blocks
    settings = load(config=write("\n".join(blocks)))
    host = compose_host(settings).contributions()
    made = {item.name: item for item in host.subscriptions if isinstance(item, WorkSubscription)}
    assert (made["agent.assistant"].prefetch, made["agent.assistant"].parallelism) == (50, 10)
    assert made["agent.assistant"].retry.max_attempts == 8
    assert made["llm.scripted.scheduled"].rate == Rate(per_second=0.5, burst=2)
    told = set(re.findall(r"`([a-z]+)(?:\.[a-z_]+)?`", page)) | {"remember_seconds"}
    assert set(SubscriptionSettings.model_fields) <= told


def test_a_subscription_that_nobody_receives_keeps_a_host_from_starting() -> None:
    write('[subscriptions."agent.asistant"]\nprefetch = 5')
    with pytest.raises(
        ConfigError, match=r"names 'agent\.asistant', which no handler receives \(received: agent\.assis"
    ):
        compose_host(load()).host()
