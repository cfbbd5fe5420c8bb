{{/* What everything's name begins with. */}}
{{- define "echogen.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* The labels that select an installation's pods. */}}
{{- define "echogen.selector" -}}
app.kubernetes.io/name: echogen
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The labels of everything. */}}
{{- define "echogen.labels" -}}
{{ include "echogen.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "echogen.secretName" -}}
{{- .Values.secret.name | default (include "echogen.fullname" .) -}}
{{- end }}

{{- define "echogen.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "echogen.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{/* The image: {root, cuda}. */}}
{{- define "echogen.image" -}}
{{- $image := .root.Values.image -}}
{{- $digest := ternary $image.cudaDigest $image.digest .cuda -}}
{{- $tag := printf "%s%s" ($image.tag | default .root.Chart.AppVersion) (ternary $image.cudaSuffix "" .cuda) -}}
{{- if $digest }}{{ printf "%s@%s" $image.repository $digest }}{{ else }}{{ printf "%s:%s" $image.repository $tag }}{{ end -}}
{{- end }}

{{/* The claim with the weights. */}}
{{- define "echogen.claimName" -}}
{{- .Values.models.volume.existingClaim | default (printf "%s-models" (include "echogen.fullname" .)) -}}
{{- end }}

{{/* Where the bundle's weights lie: beside its manifest, as the program expects. */}}
{{- define "echogen.weights" -}}
/opt/echogen/bundles/{{ .Values.models.bundle }}
{{- end }}

{{/* A map of environment variables. */}}
{{- define "echogen.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{/* Where all environment variables that are no role's own come from. */}}
{{- define "echogen.envFrom" -}}
envFrom:
  - configMapRef:
      name: {{ include "echogen.fullname" . }}
  - secretRef:
      name: {{ include "echogen.secretName" . }}
{{- end }}

{{/* Annotations that replace the pods when what they read at their start has changed. */}}
{{- define "echogen.checksums" -}}
checksum/config: {{ include (print .Template.BasePath "/configmap.yaml") . | sha256sum }}
{{- if .Values.secret.create }}
checksum/secret: {{ include (print .Template.BasePath "/secret.yaml") . | sha256sum }}
{{- end }}
{{- end }}

{{/* What all pods have in common, before their containers. */}}
{{- define "echogen.pod" -}}
serviceAccountName: {{ include "echogen.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end }}

{{/* The mounts of a container that reads the bundle: {root, write}. */}}
{{- define "echogen.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if ne .root.Values.models.volume.type "image" }}
- name: models
  mountPath: {{ include "echogen.weights" .root }}
  {{- if not .write }}
  readOnly: true
  {{- end }}
{{- end }}
{{- if .root.Values.models.manifest }}
- name: manifest
  mountPath: {{ include "echogen.weights" .root }}.toml
  subPath: bundle.toml
  readOnly: true
{{- end }}
{{- end }}

{{/* The volumes of such a pod. */}}
{{- define "echogen.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- if eq .Values.models.volume.type "claim" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ include "echogen.claimName" . }}
{{- else if eq .Values.models.volume.type "emptyDir" }}
- name: models
  emptyDir: {sizeLimit: {{ .Values.models.volume.size }}}
{{- end }}
{{- if .Values.models.manifest }}
- name: manifest
  configMap:
    name: {{ include "echogen.fullname" . }}-bundle
{{- end }}
{{- end }}

{{/* A container that runs `echogen models …`: {root, name, command}. */}}
{{- define "echogen.modelsContainer" -}}
{{- $root := .root -}}
- name: {{ .name }}
  image: {{ include "echogen.image" (dict "root" $root "cuda" false) }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args: [models, {{ .command }}, {{ $root.Values.models.bundle | quote }}]
  {{- if eq .command "pull" }}
  env:
    - name: HF_TOKEN
      valueFrom:
        secretKeyRef:
          name: {{ include "echogen.secretName" $root }}
          key: HF_TOKEN
          optional: true
    {{- with $root.Values.models.pull.endpoint }}
    - name: HF_ENDPOINT
      value: {{ . | quote }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- toYaml $root.Values.securityContext | nindent 4 }}
  resources:
    {{- toYaml $root.Values.models.pull.resources | nindent 4 }}
  volumeMounts:
    # Verifying writes, too: the sums that nobody has published are recorded at the first look.
    {{- include "echogen.mounts" (dict "root" $root "write" true) | nindent 4 }}
{{- end }}

{{/* The first containers of a role's pod. A Job fills a shared volume; until then, verifying fails and is tried again. */}}
{{- define "echogen.initContainers" -}}
{{- $models := .Values.models -}}
{{- if and (eq $models.volume.type "emptyDir") $models.pull.enabled }}
{{ include "echogen.modelsContainer" (dict "root" . "name" "pull" "command" "pull") }}
{{- end }}
{{- if and (ne $models.volume.type "image") (or $models.verify (and (eq $models.volume.type "claim") $models.pull.enabled)) }}
{{ include "echogen.modelsContainer" (dict "root" . "name" "verify" "command" "verify") }}
{{- end }}
{{- end }}

{{/* The names of the queues that a role works off. */}}
{{- define "echogen.queues" -}}
{{- $prefix := .root.Values.config.amqpPrefix -}}
{{- if eq .role "dispatcher" -}}
{{ $prefix }}.dispatch.interactive {{ $prefix }}.dispatch.standard {{ $prefix }}.dispatch.bulk
{{- else -}}
{{ $prefix }}.{{ get (dict "segmenter" "segment" "encoder" "encode" "sampler" "sample") .role }}
{{- end -}}
{{- end }}
