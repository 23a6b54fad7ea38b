{{/* What every pod of ours has. All take (dict "root" . "component" name ...). */}}

{{- define "rockbot.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "rockbot.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Environment of every process of ours. "drain" are seconds, "port" is where it tells of its health; 0 is nowhere. */}}
{{- define "rockbot.env" -}}
- name: ROCKBOT_CONFIG
  value: /etc/rockbot/settings/rockbot.toml
- name: ROCKBOT_SECRETS_DIR
  value: /run/rockbot/secrets
- name: ROCKBOT_HOST__HEALTH_HOST
  value: "0.0.0.0"
- name: ROCKBOT_HOST__HEALTH_PORT
  value: {{ .port | quote }}
- name: ROCKBOT_HOST__LOG_FORMAT
  value: json
- name: ROCKBOT_HOST__DRAIN_SECONDS
  value: {{ .drain | quote }}
{{- if .root.Values.broker.url }}
- name: ROCKBOT_BROKER_URL
  value: {{ .root.Values.broker.url | quote }}
{{- end }}
{{- if eq (include "rockbot.stateKind" .root) "sqlite" }}
- name: ROCKBOT_STATE_URL
  value: sqlite:////var/lib/rockbot/state.db
{{- else if .root.Values.state.url }}
- name: ROCKBOT_STATE_URL
  value: {{ .root.Values.state.url | quote }}
{{- end }}
{{- with .root.Values.broker.tlsSecret }}
- name: ROCKBOT_BROKER__CAFILE
  value: /run/rockbot/tls/ca.crt
{{- end }}
{{- end -}}

{{/* Secrets as files that are named like settings. */}}
{{- define "rockbot.secretSources" -}}
{{- if and (eq (include "rockbot.brokerKind" .) "existing") .Values.broker.existingSecret.name }}
- secret:
    name: {{ .Values.broker.existingSecret.name }}
    items:
      - key: {{ .Values.broker.existingSecret.key }}
        path: broker_url
      {{- with .Values.broker.existingSecret.managementKey }}
      - key: {{ . }}
        path: broker__management_url
      {{- end }}
{{- else if eq (include "rockbot.brokerKind" .) "bundled" }}
- secret:
    name: {{ include "rockbot.rabbitmqSecret" . }}
    items:
      - key: broker_url
        path: broker_url
      - key: management_url
        path: broker__management_url
{{- end }}
{{- if and (eq (include "rockbot.stateKind" .) "existing") .Values.state.existingSecret.name }}
- secret:
    name: {{ .Values.state.existingSecret.name }}
    items:
      - key: {{ .Values.state.existingSecret.key }}
        path: state_url
{{- else if eq (include "rockbot.stateKind" .) "bundled" }}
- secret:
    name: {{ include "rockbot.valkeySecret" . }}
    items:
      - key: state_url
        path: state_url
{{- end }}
{{- range .Values.secrets }}
- secret:
    name: {{ .secret }}
    items:
      - key: {{ .key }}
        path: {{ .setting }}
{{- end }}
{{- end -}}

{{/* Volumes of every process of ours. "settings" names a ConfigMap, "files" another one or is empty. */}}
{{- define "rockbot.volumes" -}}
- name: settings
  configMap:
    name: {{ .settings }}
- name: secrets
  projected:
    defaultMode: 0440
    {{- $sources := include "rockbot.secretSources" .root | trim }}
    {{- if $sources }}
    sources:
      {{- $sources | nindent 6 }}
    {{- else }}
    sources: []
    {{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- with .files }}
- name: agents
  configMap:
    name: {{ . }}
{{- end }}
{{- if .root.Values.toolFiles }}
- name: tools
  configMap:
    name: {{ include "rockbot.fullname" .root }}-tools
{{- end }}
{{- with .root.Values.broker.tlsSecret }}
- name: broker-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- if eq (include "rockbot.stateKind" .root) "sqlite" }}
- name: state
  persistentVolumeClaim:
    claimName: {{ include "rockbot.fullname" .root }}-state
{{- end }}
{{- end -}}

{{- define "rockbot.mounts" -}}
- name: settings
  mountPath: /etc/rockbot/settings
  readOnly: true
- name: secrets
  mountPath: /run/rockbot/secrets
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- with .files }}
- name: agents
  mountPath: /etc/rockbot/agents
  readOnly: true
{{- end }}
{{- if .root.Values.toolFiles }}
- name: tools
  mountPath: /etc/rockbot/tools
  readOnly: true
{{- end }}
{{- with .root.Values.broker.tlsSecret }}
- name: broker-tls
  mountPath: /run/rockbot/tls
  readOnly: true
{{- end }}
{{- if eq (include "rockbot.stateKind" .root) "sqlite" }}
- name: state
  mountPath: /var/lib/rockbot
{{- end }}
{{- end -}}

{{/* One container that stays. "name", "command" (a list), "image", "values" (as `host` or `scripts`), "port", "portName". */}}
{{- define "rockbot.container" -}}
name: {{ .name }}
image: {{ .image | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: {{ toJson .command }}
env:
  {{- include "rockbot.env" (dict "root" .root "drain" .values.drainSeconds "port" .port) | nindent 2 }}
  {{- if .values.handlers }}
  - name: ROCKBOT_HANDLERS
    value: {{ toJson .values.handlers | quote }}
  {{- end }}
  {{- if .files }}
  - name: ROCKBOT_AGENT_FILES__FOLDER
    value: /etc/rockbot/agents
  {{- end }}
  {{- with .values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - name: {{ .portName | default "health" }}
    containerPort: {{ .port }}
startupProbe:
  httpGet: {path: /startupz, port: {{ .port }}}
  periodSeconds: 2
  failureThreshold: 90
livenessProbe:
  httpGet: {path: /livez, port: {{ .port }}}
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 4
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 3
resources:
  {{- toYaml .values.resources | nindent 2 }}
securityContext:
  {{- include "rockbot.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- include "rockbot.mounts" . | nindent 2 }}
{{- end -}}

{{/* A pod's specification around "containers" (YAML of a list). "values", "settings", "files", "grace" (seconds). */}}
{{- define "rockbot.podSpec" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
serviceAccountName: {{ include "rockbot.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .grace }}
securityContext:
  {{- include "rockbot.podSecurity" . | nindent 2 }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "rockbot.selector" . | nindent 8 }}
  {{- end }}
containers:
  {{- .containers | nindent 2 }}
volumes:
  {{- include "rockbot.volumes" . | nindent 2 }}
{{- end -}}

{{/* A Deployment. "component", "values", "settings", "files", "containers", "checksum", "replicas" (absent: an autoscaler's). */}}
{{- define "rockbot.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "rockbot.fullname" .root }}-{{ .component }}
  labels:
    {{- include "rockbot.labels" . | nindent 4 }}
spec:
  {{- if hasKey . "replicas" }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  {{- if eq (include "rockbot.stateKind" .root) "sqlite" }}
  strategy:
    type: Recreate
  {{- else }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  {{- end }}
  selector:
    matchLabels:
      {{- include "rockbot.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "rockbot.labels" . | nindent 8 }}
        {{- with .values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/settings: {{ .checksum }}
        {{- with .values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "rockbot.podSpec" . | nindent 6 }}
{{- end -}}

{{/* The rest of a container that runs one command and ends. "args". */}}
{{- define "rockbot.once" -}}
image: {{ include "rockbot.image" (dict "root" .root "repository" .root.Values.host.repository "digest" .root.Values.host.digest) | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: {{ toJson .args }}
env:
  {{- include "rockbot.env" (dict "root" .root "drain" 0 "port" 0) | nindent 2 }}
resources:
  requests: {cpu: 50m, memory: 96Mi}
  limits: {memory: 256Mi}
securityContext:
  {{- include "rockbot.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- include "rockbot.mounts" . | nindent 2 }}
{{- end -}}
