{{- define "dormouse.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "dormouse.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "dormouse.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "dormouse.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "dormouse.selectorLabels" -}}
app.kubernetes.io/name: {{ include "dormouse.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dormouse.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "dormouse.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "dormouse.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "dormouse.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "dormouse.secretName" -}}
{{- default (include "dormouse.fullname" .) .Values.auth.existingSecret }}
{{- end }}

{{- define "dormouse.secretKey" -}}
{{- if .Values.auth.existingSecret }}{{ .Values.auth.existingSecretKey }}{{ else }}token{{ end }}
{{- end }}

{{/* The Secret with the token for metrics; empty: they have none. */}}
{{- define "dormouse.metricsSecretName" -}}
{{- if .Values.metrics.existingSecret }}
{{- .Values.metrics.existingSecret }}
{{- else if .Values.metrics.token }}
{{- printf "%s-metrics" (include "dormouse.fullname" .) }}
{{- end }}
{{- end }}

{{- define "dormouse.metricsSecretKey" -}}
{{- if .Values.metrics.existingSecret }}{{ .Values.metrics.existingSecretKey }}{{ else }}metrics-token{{ end }}
{{- end }}

{{/* The Secrets that are mounted, by the names of their folders. */}}
{{- define "dormouse.secretVolumes" -}}
{{- if .Values.tls.enabled }}
tls: {{ .Values.tls.existingSecret | quote }}
{{- end }}
{{- with .Values.encryption.existingSecret }}
encryption: {{ . | quote }}
{{- end }}
{{- with .Values.usage.existingSecret }}
usage: {{ . | quote }}
{{- end }}
{{- end }}

{{/*
The tokens of the chart's own Secret. A token that is made while rendering would be another one each time, which a
pipeline that renders and applies would notice only by its clients' errors. So one has to be given, and an upgrade
without it keeps the one that the cluster has.
*/}}
{{- define "dormouse.token" -}}
{{- $present := lookup "v1" "Secret" .Release.Namespace (include "dormouse.fullname" .) | default dict }}
{{- $tokens := .Values.auth.token | default (dig "data" "token" "" $present | b64dec) }}
{{- if not (trim $tokens) }}
{{- fail "auth: clients need a token. Set auth.token, for example to the output of `openssl rand -hex 20`, or auth.existingSecret" }}
{{- end }}
{{- range $token := splitList " " $tokens }}
{{- if and $token (not (regexMatch "^[!-~]{1,512}$" $token)) }}
{{- fail "auth.token: a token is at most 512 printable ASCII characters; several tokens are separated by spaces" }}
{{- end }}
{{- if regexMatch "[,;]dm_" $token }}
{{- fail "auth.token: several tokens are separated by spaces, not by commas or semicolons" }}
{{- end }}
{{- if and (hasPrefix "dm_" $token) (not (regexMatch "^dm_[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?_." $token)) }}
{{- fail "auth.token: a token that starts with dm_ has the form dm_<database>_<secret>, the database's name being 1 to 63 lower-case letters, digits and inner hyphens" }}
{{- end }}
{{- end }}
{{- $tokens }}
{{- end }}

{{- define "dormouse.image" -}}
{{- $repository := .Values.image.repository }}
{{- if .Values.image.registry }}
{{- $repository = printf "%s/%s" .Values.image.registry $repository }}
{{- end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}
