"""Values as people set them: what the chart must render to something that a cluster takes."""

from __future__ import annotations

from typing import Any

_EXTERNAL = {
    "broker": {"existingSecret": {"name": "broker", "managementKey": "management_url"}, "tlsSecret": "broker-tls"},
    "state": {"existingSecret": {"name": "state"}},
}

COMBINATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "own-secrets": {
        "rabbitmq": {"auth": {"existingSecret": "rabbit"}, "persistence": {"storageClass": "fast", "retain": True}},
        "valkey": {"auth": {"existingSecret": "valkey"}, "persistence": {"retain": True}},
        "secrets": [{"setting": "anthropic__api_key", "secret": "anthropic", "key": "api-key"}],
        "settings": {"model": "anthropic/claude-sonnet-5-5"},
    },
    "existing-broker-and-store": _EXTERNAL,
    "plain-addresses": {
        "broker": {"url": "amqp://rabbit.example/"},
        "state": {"url": "postgresql://db.example/rockbot"},
        "networkPolicy": {
            "broker": [{"ipBlock": {"cidr": "192.0.2.1/32"}}],
            "state": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "databases"}}}],
        },
    },
    "sqlite": {"state": {"sqlite": {"enabled": True}}},
    "sqlite-without-scripts": {"state": {"sqlite": {"enabled": True}}, "scripts": {"enabled": False}},
    "groups": {
        "agents": {
            "home": {
                "replicas": 2,
                "agents": {"helper": {"instructions": "Be brief.", "max_waiting": 5}, "clerk": {"tools": []}},
                "defaultAgent": "helper",
            },
            "night": {"existingConfigMap": "night-agents", "resources": {"limits": {"memory": "1Gi"}}},
        },
    },
    "files": {
        "agents": {"home": {"files": {"assistant.toml": 'model = "scripted/demo"\n', "tone.md": "Speak plainly.\n"}}}
    },
    "tools": {
        "toolFiles": {
            "home.py": "from rockbot.tools import Toolset\n\nhome = Toolset('home')\n",
            "more.py": "# none\n",
        },
        "settings": {"tools": {"files": ["/opt/acme/tools.py"]}},
        "agents": {
            "home": {"agents": {"helper": {"instructions": "Be brief."}}, "defaultAgent": "helper"},
            "night": {},
        },
        "workers": {"tools-too": {"handlers": ["tools"]}},
        "toolbox": {"enabled": True},
    },
    "workers": {
        "host": {"handlers": ["logging", "deadline", "deduplication", "agent", "scripts"]},
        "workers": {"llm": {"handlers": ["logging", "deadline", "limits", "llm"], "replicas": 3}},
        "scripts": {"replicas": 2},
    },
    "keda": {
        "workers": {
            "llm": {
                "handlers": ["llm"],
                "keda": {"enabled": True, "subscriptions": ["llm.scripted.interactive"], "maxReplicas": 5},
            }
        },
        "settings": {"namespace": "team-one"},
    },
    "autoscaling": {
        "host": {"autoscaling": {"enabled": True, "maxReplicas": 4}},
        "scripts": {"autoscaling": {"enabled": True}},
    },
    "scripts-to-zero": {"scripts": {"keda": {"enabled": True, "maxReplicas": 4}}, "toolbox": {"enabled": True}},
    "management-in-settings": {
        "broker": {"existingSecret": {"name": "rabbit-default-user", "key": "connection_string"}},
        "settings": {"broker": {"management_url": "http://rabbit:15672"}},
    },
    "external-secrets": {
        "externalSecrets": {
            "store": "vault",
            "secrets": [{"name": "anthropic", "data": [{"key": "api-key", "remoteKey": "ai", "property": "key"}]}],
        },
        "secrets": [{"setting": "anthropic__api_key", "secret": "anthropic", "key": "api-key"}],
    },
    "monitoring": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}, "limitLeft": 0.25},
        "dashboards": {"enabled": True, "annotations": {"grafana_folder": "RockBot"}},
    },
    "open-network": {"networkPolicy": {"enabled": False}, "topology": {"apply": False}},
    "registry": {
        "image": {"registry": "registry.example/team", "tag": "1.2.3", "pullSecrets": ["pull"], "pullPolicy": "Always"},
        "host": {"digest": "sha256:" + "a" * 64},
        "serviceAccount": {"create": False, "name": "agents"},
    },
    "scheduling": {
        "host": {
            "nodeSelector": {"kubernetes.io/arch": "arm64"},
            "tolerations": [{"key": "homelab", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
            ],
            "priorityClassName": "high",
            "podAnnotations": {"example.org/team": "home"},
            "podLabels": {"team": "home"},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
            "extraEnvFrom": [{"configMapRef": {"name": "more"}}],
        },
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "more"},
                "data": {"of": "{{ .Release.Name }}"},
            },
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: '{{ .Release.Name }}-text'\n",
        ],
        "networkPolicy": {
            "clients": [{"namespaceSelector": {}}],
            "models": [{"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"protocol": "TCP", "port": 11434}]}],
            "egress": [{"to": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": 4318}]}],
            "metrics": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        },
    },
}

#: Values that are wrong, and the words by which the error names what is.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"replicas": 2}, "replicas"),
    ({"image": {"tag": "latest"}}, "/image/tag"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"host": {"replicas": 0}}, "/host/replicas"),
    ({"host": {"replicas": "two"}}, "/host/replicas"),
    ({"host": {"digest": "sha256:abc"}}, "/host/digest"),
    ({"host": {"drainSeconds": -1}}, "/host/drainSeconds"),
    ({"host": {"resources": {"limits": {"memory": "lots"}}}}, "/host/resources/limits/memory"),
    ({"host": {"resource": {}}}, "resource"),
    ({"broker": {"url": "http://rabbit"}}, "/broker/url"),
    ({"broker": {"url": "amqp://user:password@rabbit/"}}, "/broker/url"),
    ({"state": {"url": "mysql://db/"}}, "/state/url"),
    ({"state": {"sqlite": {"enabled": True}}, "host": {"replicas": 2}}, "/host/replicas"),
    ({"state": {"sqlite": {"enabled": True}}, "workers": {"llm": {"handlers": ["llm"]}}}, "/workers"),
    ({"secrets": [{"setting": "anthropic__api_key", "secret": "anthropic"}]}, "/secrets/0"),
    ({"secrets": [{"setting": "ANTHROPIC KEY", "secret": "a", "key": "b"}]}, "/secrets/0/setting"),
    ({"workers": {"llm": {}}}, "/workers/llm"),
    ({"workers": {"llm": {"handlers": ["llm"], "keda": {"enabled": True}}}}, "/workers/llm/keda"),
    (
        {
            "workers": {
                "llm": {"handlers": ["llm"], "keda": {"enabled": True, "subscriptions": ["a"], "cooldownPeriod": 600}}
            }
        },
        "workers.llm.keda.cooldownPeriod",
    ),
    (
        {
            "scripts": {"keda": {"enabled": True, "cooldownPeriod": 900}},
            "settings": {"providers": {"slow": {"base_url": "http://gpu/v1", "timeout_seconds": 1200}}},
        },
        "a handler may take 1200 s",
    ),
    ({"scripts": {"keda": {"enabled": True}, "autoscaling": {"enabled": True}}}, "scripts: keda and autoscaling"),
    (
        {"broker": {"url": "amqp://rabbit/"}, "scripts": {"keda": {"enabled": True}}},
        "scripts.keda: needs the management interface",
    ),
    ({"toolbox": {"enabled": "yes"}}, "/toolbox/enabled"),
    ({"workers": {"Not A Name": {"handlers": ["llm"]}}}, "Not A Name"),
    ({"agents": {"home": {"agents": {"a b": {}}}}}, "a b"),
    ({"rabbitmq": {"image": {"tag": "latest"}}}, "/rabbitmq/image/tag"),
    ({"rabbitmq": {"persistence": {"size": "big"}}}, "/rabbitmq/persistence/size"),
    ({"valkey": {"auth": {"password": "with space"}}}, "/valkey/auth/password"),
    ({"networkPolicy": {"brokerPorts": [0]}}, "/networkPolicy/brokerPorts/0"),
    ({"networkPolicy": {"clients": [{"pods": {}}]}}, "/networkPolicy/clients/0"),
    ({"podMonitor": {"interval": "soon"}}, "/podMonitor/interval"),
    ({"prometheusRule": {"limitLeft": 10}}, "/prometheusRule/limitLeft"),
    ({"prometheusRule": {"deadLetterSeconds": "1h"}}, "/prometheusRule/deadLetterSeconds"),
    ({"dashboards": {"label": "not a label"}}, "/dashboards/label"),
    ({"externalSecrets": {"kind": "Vault"}}, "/externalSecrets/kind"),
    ({"rabbitmq": {"enabled": False}}, "there is no broker"),
    ({"valkey": {"enabled": False}}, "there is no state store"),
    ({"toolFiles": {"home.txt": "x"}}, "/toolFiles"),
    ({"toolFiles": {"../home.py": "x"}}, "/toolFiles"),
    ({"agents": {"scripts": {}}}, "agents.scripts"),
    ({"agents": {"tools": {}}}, "agents.tools"),
    (
        {"agents": {"home": {"files": {"a.md": "x"}, "existingConfigMap": "b"}}},
        "agents.home: files and existingConfigMap",
    ),
    ({"agents": {"llm": {}}, "workers": {"llm": {"handlers": ["llm"]}}}, "agents.llm and workers.llm"),
]
