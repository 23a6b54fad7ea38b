"""The Helm chart: what it renders to, what a cluster says to that, and which values it refuses."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from chart.combinations import COMBINATIONS, WRONG
from chart.readme import described, made
from chart.rendering import CHART, files, named, pods, render

from rockbot.operators.broker_access import handler_seconds
from rockbot.settings import Settings, load
from rockbot_scripts.settings import ScriptSettings

#: Kinds of operators, whose schemas are theirs.
FOREIGN = {"ExternalSecret", "PodMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}

everything = pytest.mark.parametrize("values", COMBINATIONS.values(), ids=COMBINATIONS.keys())


@pytest.mark.parametrize("version", ["1.30", "1.33", "1.36"])
def test_every_object_of_every_release_is_what_kubernetes_expects(version: str) -> None:
    objects = {json.dumps(item): item for values in COMBINATIONS.values() for item in render(values)}
    assert len(objects) > 50
    for item in objects.values():
        if item["kind"] not in FOREIGN:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as exc:
                pytest.fail(f"{item['kind']} {item['metadata']['name']}: {exc}")


@everything
def test_no_two_objects_have_the_same_name(values: dict[str, Any]) -> None:
    names = [(item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in render(values)]
    assert len(names) == len(set(names))


@everything
def test_every_pod_is_restricted(values: dict[str, Any]) -> None:
    found = pods(render(values))
    assert found
    for name, pod in found:
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not any("hostPath" in volume for volume in pod.get("volumes", [])), name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            where = f"{name}, container {container['name']}"
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, where
            assert "memory" in container["resources"]["limits"], where
            repository, separator, tag = container["image"].rpartition(":")
            assert separator, where
            assert repository, where
            assert tag != "latest", where


@everything
def test_every_process_that_stays_is_probed_and_has_time_to_drain(values: dict[str, Any]) -> None:
    for name, pod in pods(render(values)):
        if name.startswith("Deployment/") and not name.endswith("-toolbox"):  # that one does nothing
            for container in pod["containers"]:
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name
                environment = {item["name"]: item.get("value") for item in container["env"]}
                assert pod["terminationGracePeriodSeconds"] > float(environment["ROCKBOT_HOST__DRAIN_SECONDS"]), name


@everything
def test_no_variable_is_set_twice_and_each_of_ours_is_a_setting(values: dict[str, Any], monkeypatch: Any) -> None:
    for name, pod in pods(render(values)):
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            names = [item["name"] for item in container.get("env", [])]
            assert len(names) == len(set(names)), name
            for variable in names:
                if variable.startswith("ROCKBOT_") and variable not in ("ROCKBOT_CONFIG", "ROCKBOT_SECRETS_DIR"):
                    _assert_setting(variable.removeprefix("ROCKBOT_").lower().split("__"))


@everything
def test_what_is_mounted_is_there(values: dict[str, Any]) -> None:
    objects = render(values)
    there = {(item["kind"], item["metadata"]["name"]) for item in objects}
    given = {"broker", "broker-tls", "state", "rabbit", "valkey", "anthropic", "night-agents", "rabbit-default-user"}
    for name, pod in pods(objects):
        for volume in pod.get("volumes", []):
            wanted = [("ConfigMap", volume["configMap"]["name"])] if "configMap" in volume else []
            wanted += [
                ("Secret", source["secret"]["name"]) for source in volume.get("projected", {}).get("sources", [])
            ]
            wanted += [("Secret", volume["secret"]["secretName"])] if "secret" in volume else []
            if "persistentVolumeClaim" in volume:
                wanted.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
            for kind, what in wanted:
                assert (kind, what) in there or what in given, f"{name} mounts {kind} {what}"


@everything
def test_every_settings_file_is_taken_by_the_host_that_reads_it(values: dict[str, Any], tmp_path: Path) -> None:
    read = 0
    for item in render(values):
        if item["kind"] == "ConfigMap" and "rockbot.toml" in item.get("data", {}):
            path = tmp_path / f"{item['metadata']['name']}.toml"
            path.write_text(item["data"]["rockbot.toml"])
            settings = load(config=path)
            assert settings.default_agent in settings.agents
            read += 1
    assert read >= 2


@everything
def test_rendering_is_the_same_every_time(values: dict[str, Any]) -> None:
    assert files(values) == files(values)


@everything
def test_whoever_is_reached_is_let_in_by_a_policy(values: dict[str, Any]) -> None:
    objects = render(values)
    policies = [item for item in objects if item["kind"] == "NetworkPolicy"]
    if not values.get("networkPolicy", {}).get("enabled", True):
        assert not policies
        return
    default = named(objects, "NetworkPolicy", "demo-rockbot-default")
    assert default["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in default["spec"]
    for name, pod in pods(objects):
        labels = _labels(objects, name)
        selecting = [policy for policy in policies if _selects(policy["spec"]["podSelector"], labels)]
        assert default in selecting, name
        ports = {port["containerPort"] for container in pod["containers"] for port in container.get("ports", [])}
        opened = {
            port["port"] for policy in selecting for rule in policy["spec"].get("ingress", []) for port in rule["ports"]
        }
        assert ports <= opened, name


def test_scripts_reach_no_model_and_nothing_outside_the_cluster_of_their_own() -> None:
    objects = render()
    labels = _labels(objects, "Deployment/demo-rockbot-scripts")
    selecting = [
        item
        for item in objects
        if item["kind"] == "NetworkPolicy"
        and _selects(item["spec"]["podSelector"], labels)
        and "egress" in item["spec"]
    ]
    peers = [peer for item in selecting for rule in item["spec"]["egress"] for peer in rule["to"]]
    assert peers
    assert not any("ipBlock" in peer for peer in peers)


@pytest.mark.parametrize(("values", "says"), WRONG, ids=[says for _, says in WRONG])
def test_wrong_values_are_refused_by_the_name_of_their_key(values: dict[str, Any], says: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(says)):
        render(values)


def test_the_linter_finds_nothing() -> None:
    result = helm_python.lint(CHART, {}, strict=True)
    assert not [message for message in result["messages"] if message["severity"] >= 2], result


def test_the_schema_knows_every_value_and_no_other() -> None:
    with helm_python.Chart.load(CHART) as chart:
        schema, values = chart.schema, chart.values
    assert schema is not None
    assert schema["properties"].keys() - {"global"} == values.keys()
    _assert_described(schema, values, "")


def test_a_changed_setting_restarts_processes_and_makes_a_new_topology_job() -> None:
    before, after = render(), render({"settings": {"broker": {"max_queue_messages": 5}}})

    def restarting(objects: list[dict[str, Any]]) -> str:
        host = named(objects, "Deployment", "demo-rockbot-host")
        return str(host["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])

    def job(objects: list[dict[str, Any]]) -> str:
        (name,) = [item["metadata"]["name"] for item in objects if item["kind"] == "Job"]
        return str(name)

    assert restarting(before) != restarting(after)
    assert job(before) != job(after)


def test_agents_that_are_files_change_without_a_restart() -> None:
    before, after = render(COMBINATIONS["files"]), render({"agents": {"home": {"files": {"tone.md": "Otherwise.\n"}}}})
    host = [named(objects, "Deployment", "demo-rockbot-home")["spec"]["template"] for objects in (before, after)]
    assert host[0]["metadata"]["annotations"] == host[1]["metadata"]["annotations"]


def test_tools_of_ones_own_are_where_the_settings_of_every_process_say_and_restart_it_when_they_change() -> None:
    objects = render(COMBINATIONS["tools"])
    files = named(objects, "ConfigMap", "demo-rockbot-tools")["data"]
    told = [f"/etc/rockbot/tools/{name}" for name in files]
    for item in objects:
        if item["kind"] == "ConfigMap" and "rockbot.toml" in item["data"]:
            assert tomllib.loads(item["data"]["rockbot.toml"])["tools"]["files"] == ["/opt/acme/tools.py", *told]
    mounting = {
        name
        for name, pod in pods(objects)
        for container in pod["containers"]
        for mount in container.get("volumeMounts", [])
        if (mount["name"], mount["mountPath"], mount.get("readOnly")) == ("tools", "/etc/rockbot/tools", True)
    }
    ours = {name for name, pod in pods(objects) if any(v["name"] == "settings" for v in pod.get("volumes", []))}
    assert mounting == ours
    changed = render(COMBINATIONS["tools"] | {"toolFiles": {"home.py": "# none\n"}})
    for name in ("home", "night", "tools-too"):
        templates = [
            named(each, "Deployment", f"demo-rockbot-{name}")["spec"]["template"] for each in (objects, changed)
        ]
        assert templates[0]["metadata"]["annotations"] != templates[1]["metadata"]["annotations"]


def test_workers_and_topology_know_the_agents_of_every_group() -> None:
    objects = render(COMBINATIONS["groups"])
    shared = tomllib.loads(named(objects, "ConfigMap", "demo-rockbot-settings")["data"]["rockbot.toml"])
    assert shared["agents"].keys() == {"helper", "clerk"}


def test_a_scaled_object_counts_what_waits_and_what_is_delayed() -> None:
    scaled = next(item for item in render(COMBINATIONS["keda"]) if item["kind"] == "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    pattern = re.compile(trigger["metadata"]["queueName"])
    assert pattern.search("team-one.llm.scripted.interactive")
    assert pattern.search("team-one.llm.scripted.interactive.delay.30")
    assert not pattern.search("team-one.llm.scripted.interactive.dlq")
    assert scaled["spec"]["cooldownPeriod"] > Settings().anthropic.timeout_seconds


def test_scripts_scale_to_zero_only_after_the_longest_handler() -> None:
    def scaled(settings: dict[str, Any]) -> dict[str, Any]:
        values = {**COMBINATIONS["scripts-to-zero"], "settings": settings}
        return next(item for item in render(values) if item["kind"] == "ScaledObject")

    spec = scaled({})["spec"]
    assert (
        "replicas" not in named(render(COMBINATIONS["scripts-to-zero"]), "Deployment", "demo-rockbot-scripts")["spec"]
    )
    assert (spec["minReplicaCount"], spec["cooldownPeriod"], len(spec["triggers"])) == (0, 900, 2)
    settings = {"scripts": {"max_wall_seconds": 1500}}
    assert scaled(settings)["spec"]["cooldownPeriod"] > 1500


def test_the_longest_handler_is_the_one_that_the_doctor_counts(tmp_path: Path) -> None:
    given = {"anthropic": {"timeout_seconds": 700}, "scripts": {"max_wall_seconds": 650.0}}
    scaled = next(
        item
        for item in render({**COMBINATIONS["scripts-to-zero"], "settings": given})
        if item["kind"] == "ScaledObject"
    )
    path = tmp_path / "rockbot.toml"
    path.write_text("[anthropic]\ntimeout_seconds = 700\n[scripts]\nmax_wall_seconds = 650.0\n")
    assert scaled["spec"]["cooldownPeriod"] == handler_seconds(load(config=path)) + 300


def test_the_topology_is_applied_where_the_settings_name_the_management_interface() -> None:
    jobs = [item for item in render(COMBINATIONS["management-in-settings"]) if item["kind"] == "Job"]
    assert len(jobs) == 1


def test_the_toolbox_has_what_hosts_have_and_no_way_to_models() -> None:
    objects = render({"toolbox": {"enabled": True}})
    toolbox, host = (
        named(objects, "Deployment", f"demo-rockbot-{name}")["spec"]["template"] for name in ("toolbox", "host")
    )

    def secrets(pod: dict[str, Any]) -> Any:
        return next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "secrets")

    assert secrets(toolbox) == secrets(host)
    models = named(objects, "NetworkPolicy", "demo-rockbot-models")["spec"]["podSelector"]
    assert _selects(models, host["metadata"]["labels"])
    assert not _selects(models, toolbox["metadata"]["labels"])


def test_the_notes_say_how_to_begin_and_what_is_not_safe() -> None:
    def notes(values: dict[str, Any]) -> str:
        return next(text for file, text in files(values).items() if file.endswith("NOTES.txt"))

    assert "rockbot ask assistant" in notes({})
    assert "rockbot dlq list" in notes({})
    assert notes({}).count("WARNING") == 2
    assert "WARNING" not in notes(COMBINATIONS["own-secrets"])
    assert "rockbot ask helper" in notes(COMBINATIONS["groups"])


def test_the_notes_name_every_volume_that_goes_with_the_release() -> None:
    def notes(values: dict[str, Any]) -> str:
        return next(text for file, text in files(values).items() if file.endswith("NOTES.txt"))

    assert "keep them: rabbitmq.persistence.retain, valkey.persistence.retain." in notes({})
    assert "state.sqlite.retain" in notes(COMBINATIONS["sqlite"])
    assert "uninstall" not in notes(COMBINATIONS["own-secrets"])


def test_an_uninstalled_release_leaves_no_volume_that_was_not_to_be_kept() -> None:
    for values, kept in (({}, "Delete"), (COMBINATIONS["own-secrets"], "Retain")):
        sets = [item for item in render(values) if item["kind"] == "StatefulSet"]
        assert [item["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] for item in sets] == [kept] * 2
    claims = [item for item in render(COMBINATIONS["sqlite"]) if item["kind"] == "PersistentVolumeClaim"]
    assert [item["metadata"].get("annotations") for item in claims] == [None]


def test_what_else_may_be_reached_may_be_reached_by_every_process_of_ours_alone() -> None:
    values = COMBINATIONS["scheduling"]
    policy = named(render(values), "NetworkPolicy", "demo-rockbot-processes")["spec"]
    assert values["networkPolicy"]["egress"][0] in policy["egress"]
    assert not _selects(policy["podSelector"], _labels(render(values), "StatefulSet/demo-rockbot-rabbitmq"))


def test_the_readme_is_made_from_the_values_and_tells_each_of_them() -> None:
    assert (CHART / "README.md").read_text() == made(), "run: python -m tests.chart.readme"
    text = (CHART / "values.yaml").read_text()
    told = {key for key, _ in described(text)}
    assert {
        key for key in _leaves(yaml.safe_load(text)) if not any(key.startswith(f"{each}.") for each in told)
    } <= told | {key for key in _leaves(yaml.safe_load(text)) if ".resources." in key}


# -- pieces ------------------------------------------------------------------------------------------------------------


def _leaves(values: dict[str, Any], where: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += _leaves(value, f"{where}{key}.") if isinstance(value, dict) and value else [f"{where}{key}"]
    return found


def _assert_setting(path: list[str]) -> None:
    model: Any = Settings
    if path[0] == "scripts":
        model, path = ScriptSettings, path[1:]
    for at, part in enumerate(path):
        assert part in model.model_fields, f"{'__'.join(path)} is no setting"
        if at + 1 < len(path):
            model = model.model_fields[part].annotation


def _assert_described(schema: dict[str, Any], values: dict[str, Any], where: str) -> None:
    """Every value of the defaults is in the schema, and nothing else is allowed beside them."""
    for key, value in values.items():
        assert key in schema["properties"], f"{where}/{key}"
        inner = schema["properties"][key]
        if isinstance(value, dict) and "properties" in inner:
            assert inner["additionalProperties"] is False, f"{where}/{key}"
            _assert_described(inner, value, f"{where}/{key}")


def _labels(objects: list[dict[str, Any]], name: str) -> dict[str, str]:
    kind, _, short = name.partition("/")
    item = named(objects, kind, short)
    labels: dict[str, str] = (item if kind == "Pod" else item["spec"]["template"])["metadata"]["labels"]
    return labels


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "NotIn"
        if labels.get(expression["key"]) in expression["values"]:
            return False
    return True
