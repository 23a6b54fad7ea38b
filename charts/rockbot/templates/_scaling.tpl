{{- define "rockbot.autoscaler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "rockbot.fullname" .root }}-{{ .component }}
  labels:
    {{- include "rockbot.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "rockbot.fullname" .root }}-{{ .component }}
  minReplicas: {{ .values.autoscaling.minReplicas }}
  maxReplicas: {{ .values.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ .values.autoscaling.targetCPU }}
{{- end -}}

{{- define "rockbot.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "rockbot.fullname" .root }}-{{ .component }}
  labels:
    {{- include "rockbot.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "rockbot.selector" . | nindent 6 }}
{{- end -}}

{{/* Whether autoscalers may be rendered: (dict "root" . "where" "workers.llm" "values" ...) fails with the reason, or is empty. */}}
{{- define "rockbot.scalable" -}}
{{- $keda := default dict .values.keda -}}
{{- $autoscaling := default dict .values.autoscaling -}}
{{- if $keda.enabled -}}
{{- if not (include "rockbot.managementSecret" .root) -}}
{{- fail (printf "%s.keda: needs the management interface: set broker.existingSecret.managementKey" .where) -}}
{{- end -}}
{{- if $autoscaling.enabled -}}
{{- fail (printf "%s: keda and autoscaling would fight; switch one off" .where) -}}
{{- end -}}
{{- $longest := include "rockbot.handlerSeconds" .root | int -}}
{{- if and (hasKey $keda "cooldownPeriod") (le (int $keda.cooldownPeriod) $longest) -}}
{{- fail (printf "%s.keda.cooldownPeriod: a handler may take %d s; the last pod must not go before" .where $longest) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The longest time (seconds) that a handler may hold a message, as `rockbot doctor` counts it. */}}
{{- define "rockbot.handlerSeconds" -}}
{{- $settings := .Values.settings -}}
{{- $longest := max 600 (dig "anthropic" "timeout_seconds" 0 $settings | int) (dig "scripts" "max_wall_seconds" 0 $settings | int) -}}
{{- range $name, $provider := default dict $settings.providers -}}
{{- $longest = max $longest (get $provider "timeout_seconds" | default 0 | int) -}}
{{- end -}}
{{- $longest -}}
{{- end -}}

{{/* Counts what is ready, in somebody's hands, and delayed; so it needs the management interface. */}}
{{- define "rockbot.scaledObject" -}}
{{- $keda := .values.keda -}}
{{- $namespace := default "rockbot" .root.Values.settings.namespace -}}
apiVersion: keda.sh/v1alpha1
kind: TriggerAuthentication
metadata:
  name: {{ include "rockbot.fullname" .root }}-{{ .component }}
  labels:
    {{- include "rockbot.labels" . | nindent 4 }}
spec:
  secretTargetRef:
    - parameter: host
      {{- if eq (include "rockbot.brokerKind" .root) "bundled" }}
      name: {{ include "rockbot.rabbitmqSecret" .root }}
      key: management_url
      {{- else }}
      name: {{ .root.Values.broker.existingSecret.name }}
      key: {{ .root.Values.broker.existingSecret.managementKey }}
      {{- end }}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ include "rockbot.fullname" .root }}-{{ .component }}
  labels:
    {{- include "rockbot.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    name: {{ include "rockbot.fullname" .root }}-{{ .component }}
  minReplicaCount: {{ $keda.minReplicas | default 0 }}
  maxReplicaCount: {{ $keda.maxReplicas | default 3 }}
  pollingInterval: {{ $keda.pollingInterval | default 15 }}
  cooldownPeriod: {{ $keda.cooldownPeriod | default (add (include "rockbot.handlerSeconds" .root | int) 300) }}
  triggers:
    {{- range $keda.subscriptions }}
    - type: rabbitmq
      metadata:
        protocol: http
        mode: QueueLength
        value: {{ $keda.perReplica | default 10 | quote }}
        activationValue: "0"
        useRegex: "true"
        operation: sum
        excludeUnacknowledged: "false"
        queueName: {{ printf "^%s\\.%s(\\.delay\\.[0-9]+)?$" ($namespace | replace "." "\\.") (. | replace "." "\\.") | quote }}
      authenticationRef:
        name: {{ include "rockbot.fullname" $.root }}-{{ $.component }}
    {{- end }}
{{- end -}}
