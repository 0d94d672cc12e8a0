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

{{/* A registry with its path, moved to global.imageRegistry where that is set: (list $ "ghcr.io/anneal"). */}}
{{- define "anneal.rehost" -}}
{{- $root := index . 0 -}}{{- $place := index . 1 -}}
{{- with $root.Values.global.imageRegistry -}}
{{ printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^[^/]+/" $place "") }}
{{- else -}}{{ $place }}
{{- end -}}
{{- end }}

{{/* Image reference from (list $ image): the digest when it is known, else the tag, else the chart's version. */}}
{{- define "anneal.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- $base := include "anneal.rehost" (list $root (printf "%s/%s" $root.Values.images.registry $image.name)) -}}
{{- if $image.digest -}}{{ $base }}@{{ $image.digest }}
{{- else -}}{{ $base }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Namespaces whose objects the operator may touch, as JSON; an empty list where it may touch all. */}}
{{- define "anneal.namespaces" -}}
{{- if .Values.watchNamespaces -}}{{ .Values.watchNamespaces | toJson }}
{{- else if eq .Values.rbac.scope "namespace" -}}{{ list .Release.Namespace | toJson }}
{{- else -}}[]
{{- end -}}
{{- end }}

{{- define "anneal.prepullLabels" -}}
app.kubernetes.io/name: anneal
app.kubernetes.io/component: prepull
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What is made for an entry of prepull: (list $ entry). */}}
{{- define "anneal.prepullName" -}}
{{ include "anneal.name" (index . 0) }}-prepull-{{ (index . 1).accelerator }}
{{- end }}

{{/* Where a node's weights are handed out: anneal_runtime.nearby.PORT. */}}
{{- define "anneal.nearbyPort" -}}
8095
{{- end }}

{{/* Accelerator profiles as the operator gets them: pods of those whose nodes have weights are told where to ask. */}}
{{- define "anneal.accelerators" -}}
{{- $root := . -}}
{{- $profiles := list -}}
{{- range $profile := .Values.accelerators -}}
{{- range $wanted := $root.Values.prepull -}}
{{- if and $wanted.weights (eq $wanted.accelerator $profile.name) -}}
{{- $address := printf "http://%s.%s.svc:%s" (include "anneal.prepullName" (list $root $wanted)) $root.Release.Namespace (include "anneal.nearbyPort" $root) -}}
{{- $profile = mergeOverwrite (deepCopy $profile) (dict "overlay" (dict "env" (dict "ANNEAL_NEARBY" $address))) -}}
{{- end -}}
{{- end -}}
{{- $profiles = append $profiles $profile -}}
{{- end -}}
{{- toYaml $profiles -}}
{{- end }}

{{/* Says something where any entry of prepull has weights. */}}
{{- define "anneal.hasWeights" -}}
{{- range .Values.prepull }}{{ if .weights }}weights{{ end }}{{ end -}}
{{- end }}
