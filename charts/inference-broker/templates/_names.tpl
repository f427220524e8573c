{{/* What things are called, and whose they are. */}}

{{- define "ib.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "ib.account" -}}
{{ .Values.serviceAccount.name | default (include "ib.name" .) }}
{{- end }}

{{/* (root, component) */}}
{{- define "ib.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* (root, component) */}}
{{- define "ib.labels" -}}
{{- $root := index . 0 -}}
{{ include "ib.selector" . }}
app.kubernetes.io/part-of: {{ $root.Chart.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ib.image" -}}
{{- with .Values.image -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end }}

{{- define "ib.brokerSpiffeId" -}}
{{ .Values.brokerSpiffeId | default (printf "spiffe://%s/ns/%s/sa/%s" .Values.trustDomain .Release.Namespace (include "ib.account" .)) }}
{{- end }}

{{/* The namespaces whose objects are read, the broker's own first; "*" when it is all of them. One a line. */}}
{{- define "ib.namespaces" -}}
{{- if has "*" .Values.namespaces }}*{{ else }}{{ prepend (concat .Values.namespaces .Values.sharedModelNamespaces) .Release.Namespace | uniq | join "\n" }}{{ end }}
{{- end }}

{{- define "ib.webhookSecret" -}}
{{- with .Values.webhook.certificate -}}
{{ if eq .mode "given" }}{{ .given.secretName }}{{ else }}{{ include "ib.name" $ }}-webhook-tls{{ end }}
{{- end -}}
{{- end }}

{{/* What no schema can say. */}}
{{- define "ib.check" -}}
{{- with .Values.quotaStore }}
{{- if eq (empty .secretName) (empty .url) }}
{{- fail "quotaStore: give secretName (a Secret with the URL of a Redis) or url (without a password), one of them" }}
{{- end }}
{{- if and (eq .url "memory:") (or (ne (int $.Values.broker.replicas) 1) $.Values.broker.autoscaling.enabled) }}
{{- fail "quotaStore.url memory: is for a trial with broker.replicas 1 and no autoscaling: several brokers would each count alone" }}
{{- end }}
{{- end }}
{{- with .Values.broker.auditFile }}
{{- if and .enabled (empty .claimName) (not (regexMatch "^[0-9]+$" .keep)) }}
{{- fail "broker.auditFile.keep: without claimName give a number of files: a volume of the Pod's own has a size, and a Pod that passes it is evicted" }}
{{- end }}
{{- end }}
{{- range $namespace, $names := .Values.secrets }}
{{- if and (eq $namespace $.Release.Namespace) (has "*" $names) }}
{{- fail (printf "secrets.%s: name each one; the broker's own Secrets are in this namespace" $namespace) }}
{{- end }}
{{- if not (or (has "*" $.Values.namespaces) (has $namespace (splitList "\n" (include "ib.namespaces" $)))) }}
{{- fail (printf "secrets.%s: add %s to namespaces, or nobody reads the objects that refer to them" $namespace $namespace) }}
{{- end }}
{{- end }}
{{- with .Values.webhook }}
{{- if and .enabled (eq .certificate.mode "given") (or (empty .certificate.given.secretName) (empty .certificate.given.caBundle)) }}
{{- fail "webhook.certificate.mode given: give given.secretName (with tls.crt and tls.key) and given.caBundle (what signed it, PEM)" }}
{{- end }}
{{- end }}
{{- end }}
