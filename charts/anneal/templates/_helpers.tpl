{{- define "anneal.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}-operator
{{- end }}

{{- define "anneal.labels" -}}
app.kubernetes.io/name: anneal
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "anneal.selector" -}}
app.kubernetes.io/name: anneal
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Image reference from (list $ image): the digest when it is known, else the tag, else the chart's version. */}}
{{- define "anneal.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- $base := printf "%s/%s" $root.Values.images.registry $image.name -}}
{{- if $image.digest -}}{{ $base }}@{{ $image.digest }}
{{- else -}}{{ $base }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}
