{{/*
The name of a service contains no dots and starts with a letter. Kubernetes adds a hyphen and up to 10 characters to the name of a
StatefulSet and uses the result as a label, of up to 63.
*/}}
{{- define "zoomgate.name" -}}
{{- $release := replace "." "-" .Release.Name }}
{{- $name := ternary $release (printf "%s-%s" $release .Chart.Name) (contains .Chart.Name $release) }}
{{- $name = ternary $name (printf "%s-%s" .Chart.Name $release) (regexMatch "^[a-z]" $name) }}
{{- $name | trunc 52 | trimAll "-" }}
{{- end }}

{{- define "zoomgate.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "zoomgate.labels" -}}
{{ include "zoomgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Kubernetes would replace $(NAME) by the value of that variable. */}}
{{- define "zoomgate.value" -}}
{{- if kindIs "bool" . }}{{ ternary "on" "off" . }}
{{- else if kindIs "float64" . }}{{ int64 . }}
{{- else }}{{ toString . | replace "$" "$$" }}
{{- end }}
{{- end }}
