{{/* What all our Pods have in common. */}}

{{/* (root, component, its values): the fields of a Pod's spec besides containers and volumes */}}
{{- define "ib.pod" -}}
{{- $root := index . 0 }}{{ $values := index . 2 -}}
automountServiceAccountToken: true
enableServiceLinks: false # a Service called "broker" would bring a variable BROKER_PORT
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $root.Values.runAsUser }}
  runAsGroup: {{ $root.Values.runAsUser }}
  fsGroup: {{ $root.Values.runAsUser }}
  seccompProfile: {type: RuntimeDefault}
topologySpreadConstraints:
{{- if $values.topologySpreadConstraints }}
{{ toYaml $values.topologySpreadConstraints }}
{{- else }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "ib.selector" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* (root, component, its values): a Pod's metadata */}}
{{- define "ib.podMetadata" -}}
{{- $values := index . 2 -}}
labels:
  {{- include "ib.labels" . | nindent 2 }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ index . 1 }}
  {{- with $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* (root, its values): the fields of a container besides name, command, args, env, ports and mounts */}}
{{- define "ib.container" -}}
{{- $root := index . 0 -}}
image: {{ include "ib.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  readOnlyRootFilesystem: true
startupProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 2
resources:
  {{- toYaml (index . 1).resources | nindent 2 }}
{{- end }}

{{/* What the broker, and the controller that says what it does, must be told alike. */}}
{{- define "ib.sharedArgs" -}}
- --namespace={{ .Release.Namespace }}
{{- with (without (include "ib.namespaces" . | splitList "\n") .Release.Namespace | join ",") }}
- --namespaces={{ . }}
{{- end }}
{{- with .Values.sharedModelNamespaces }}
- --shared-model-namespaces={{ join "," . }}
{{- end }}
{{- range $domain, $place := .Values.trustBundleConfigMaps }}
- --trust-bundle-configmap={{ $domain }}={{ $place }}
{{- end }}
{{- with .Values.upstreams.allowHosts }}
- --allow-hosts={{ join "," . }}
{{- end }}
{{- with .Values.upstreams.plainHttpHosts }}
- --plain-http-hosts={{ join "," . }}
{{- end }}
{{- if .Values.upstreams.allowInlineCredentials }}
- --allow-inline-credentials=true
{{- end }}
- --quota-prefix={{ .Values.quotaStore.prefix }}
- --quota-deadline={{ .Values.quotaStore.deadline }}
{{- if .Values.quotaStore.allowInsecure }}
- --allow-insecure-quota-store=true
{{- end }}
{{- end }}

{{/* Of all three. The kubelet and Prometheus ask at the Pod's address. */}}
{{- define "ib.commonArgs" -}}
- --admin=:9090
- --log-level={{ .Values.log.level }}
- --log-format={{ .Values.log.format }}
{{- end }}

{{/* Arguments can be read by whoever may list Pods: the URL may hold a password. */}}
{{- define "ib.quotaStoreEnv" -}}
- name: BROKER_QUOTA_STORE
  {{- with .Values.quotaStore }}
  {{- if .secretName }}
  valueFrom:
    secretKeyRef: {name: {{ .secretName }}, key: {{ .secretKey }}}
  {{- else }}
  value: {{ .url | quote }}
  {{- end }}
  {{- end }}
{{- end }}

{{/* OpenTelemetry's own variables. Only the reference to the Secret stands in the object. */}}
{{- define "ib.otlpEnv" -}}
{{- with .Values.telemetry.otlp }}
{{- if and .content (not .endpoint) }}
{{- fail "telemetry.otlp.content: prompts and answers go with traces; give telemetry.otlp.endpoint as well" }}
{{- end }}
{{- if .endpoint -}}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_SERVICE_NAME, value: {{ include "ib.name" $ }}}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: "k8s.pod.name=$(POD_NAME),k8s.namespace.name={{ $.Release.Namespace }}"}
- {name: OTEL_TRACES_SAMPLER, value: {{ .sampler }}}
{{- if .content }}
- {name: BROKER_OTEL_CONTENT, value: "true"}
{{- end }}
{{- with .samplerRatio }}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ . | quote }}}
{{- end }}
{{- if .headersSecretName }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef: {name: {{ .headersSecretName }}, key: {{ .headersSecretKey }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ib.quotaStoreMount" -}}
{{- if .Values.quotaStore.filesSecretName -}}
- {name: quota-store, mountPath: /etc/quota-store, readOnly: true}
{{- end }}
{{- end }}

{{- define "ib.quotaStoreVolume" -}}
{{- with .Values.quotaStore.filesSecretName -}}
- name: quota-store
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{/* (root, component, its values) */}}
{{- define "ib.disruptionBudget" -}}
{{- $root := index . 0 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "ib.name" $root }}{{ if ne (index . 1) "broker" }}-{{ index . 1 }}{{ end }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "ib.labels" . | nindent 4 }}
spec:
  {{- toYaml (index . 2).disruptionBudget | nindent 2 }}
  selector:
    matchLabels:
      {{- include "ib.selector" . | nindent 6 }}
{{- end }}
