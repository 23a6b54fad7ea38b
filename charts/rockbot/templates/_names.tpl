{{/* Names, labels, images. */}}

{{- define "rockbot.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "rockbot.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "rockbot.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "rockbot.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select: of the release, and (dict "root" . "component" name) of one component. */}}
{{- define "rockbot.releaseSelector" -}}
app.kubernetes.io/name: {{ include "rockbot.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rockbot.selector" -}}
{{ include "rockbot.releaseSelector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "rockbot.labels" -}}
{{ include "rockbot.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: rockbot
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* (dict "root" . "repository" "" "digest" ""): an image of ours. */}}
{{- define "rockbot.image" -}}
{{- $registry := .root.Values.image.registry | trimSuffix "/" -}}
{{- $repository := ternary (printf "%s/%s" $registry .repository) .repository (ne $registry "") -}}
{{- if .digest -}}
{{- printf "%s@%s" $repository .digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .root.Chart.AppVersion .root.Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* An image of others: repository, tag, digest. */}}
{{- define "rockbot.foreignImage" -}}
{{- if .digest -}}{{ printf "%s@%s" .repository .digest }}{{- else -}}{{ printf "%s:%s" .repository .tag }}{{- end -}}
{{- end -}}

{{- define "rockbot.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "rockbot.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Which broker and which state store: "bundled" or "existing"; "bundled", "existing" or "sqlite". */}}
{{- define "rockbot.brokerKind" -}}
{{- if or .Values.broker.url .Values.broker.existingSecret.name -}}existing
{{- else if .Values.rabbitmq.enabled -}}bundled
{{- else -}}{{- fail "there is no broker: set broker.url or broker.existingSecret.name, or rabbitmq.enabled" -}}
{{- end -}}
{{- end -}}

{{- define "rockbot.stateKind" -}}
{{- if .Values.state.sqlite.enabled -}}sqlite
{{- else if or .Values.state.url .Values.state.existingSecret.name -}}existing
{{- else if .Values.valkey.enabled -}}bundled
{{- else -}}{{- fail "there is no state store: set state.url or state.existingSecret.name, state.sqlite.enabled or valkey.enabled" -}}
{{- end -}}
{{- end -}}

{{/* Whether a Secret holds the management interface's address: "true" or empty. */}}
{{- define "rockbot.managementSecret" -}}
{{- if eq (include "rockbot.brokerKind" .) "bundled" -}}true
{{- else if and .Values.broker.existingSecret.name .Values.broker.existingSecret.managementKey -}}true
{{- end -}}
{{- end -}}

{{/* Whether its address is known at all; in the settings it stands without a password, and the broker's is used. */}}
{{- define "rockbot.managed" -}}
{{- if include "rockbot.managementSecret" . -}}true
{{- else if dig "broker" "management_url" "" .Values.settings -}}true
{{- end -}}
{{- end -}}

{{- define "rockbot.rabbitmqSecret" -}}
{{- default (printf "%s-rabbitmq" (include "rockbot.fullname" .)) .Values.rabbitmq.auth.existingSecret -}}
{{- end -}}

{{- define "rockbot.valkeySecret" -}}
{{- default (printf "%s-valkey" (include "rockbot.fullname" .)) .Values.valkey.auth.existingSecret -}}
{{- end -}}

{{/* Groups of agents with what they inherit, as YAML: name, agents, files, ... */}}
{{- define "rockbot.groups" -}}
{{- $groups := dict -}}
{{- $given := .Values.agents -}}
{{- if not $given -}}{{- $given = dict "host" dict -}}{{- end -}}
{{- range $name, $group := $given -}}
{{- $_ := set $groups $name (mergeOverwrite (deepCopy $.Values.host) (deepCopy (default dict $group))) -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{/* The agent that a task without a name goes to: the one that is set, else `assistant`, else the first one. Takes settings. */}}
{{- define "rockbot.defaultAgent" -}}
{{- if .default_agent -}}{{ .default_agent }}
{{- else if or (not .agents) (hasKey .agents "assistant") -}}assistant
{{- else -}}{{ keys .agents | sortAlpha | first }}
{{- end -}}
{{- end -}}

{{/* The default agent of the first group. */}}
{{- define "rockbot.firstAgent" -}}
{{- $groups := include "rockbot.groups" . | fromYaml -}}
{{- $group := get $groups (keys $groups | sortAlpha | first) -}}
{{- $settings := mergeOverwrite (deepCopy .Values.settings) (dict "agents" (default dict $group.agents)) -}}
{{- default (include "rockbot.defaultAgent" $settings) $group.defaultAgent -}}
{{- end -}}
