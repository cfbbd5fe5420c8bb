{{/* The beginning of all objects' names. */}}
{{- define "echogen.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* The labels that select an installation's pods. */}}
{{- define "echogen.selector" -}}
app.kubernetes.io/name: echogen
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The labels of all objects. */}}
{{- define "echogen.labels" -}}
{{ include "echogen.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The end of the names of a pool's objects: {name}, or nothing. */}}
{{- define "echogen.poolSuffix" -}}
{{- with .name }}-{{ . }}{{ end -}}
{{- end }}

{{/* The labels that select the pods of a role, or of one pool of it: {root, component, pool}. */}}
{{- define "echogen.componentSelector" -}}
{{ include "echogen.selector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
echogen/pool: {{ . }}
{{- end }}
{{- end }}

{{/* The pools of a role as a JSON list, each with what it has of its own; without any, one that has no name and nothing. */}}
{{- define "echogen.pools" -}}
{{- toJson (.pools | default (list (dict "name" ""))) -}}
{{- end }}

{{/* Fails if the pools of a role cannot work together. */}}
{{- define "echogen.checkPools" -}}
{{- range $name, $role := .Values.roles }}
{{- if and $role.enabled $role.pools }}
{{- $seen := list -}}
{{- $bundles := dict -}}
{{- range $pool := $role.pools -}}
{{- if has $pool.name $seen }}{{ fail (printf "values: two pools of roles.%s are called %s" $name $pool.name) }}{{ end -}}
{{- $seen = append $seen $pool.name -}}
{{- $own := deepCopy $role -}}
{{- include "echogen.overwrite" (dict "into" $own "from" $pool) -}}
{{- if gt (int $own.autoscaling.min) (int $own.autoscaling.max) -}}
{{- fail (printf "values: the pool %s of roles.%s has an autoscaling.min above its max" $pool.name $name) -}}
{{- end -}}
{{- $bundle := get ($pool.bundle | default dict) "name" | default $.Values.config.model.bundle -}}
{{- range $lane := include "echogen.lanes" $pool | fromJsonArray -}}
{{- if ne $bundle (get $bundles $lane | default $bundle) -}}
{{- fail (printf "values: pools with different bundles serve the lane %s, so chance would decide about each picture" $lane) -}}
{{- end -}}
{{- $_ := set $bundles $lane $bundle -}}
{{- end -}}
{{- end -}}
{{- range $lane := include "echogen.lanes" dict | fromJsonArray -}}
{{- if not (hasKey $bundles $lane) -}}
{{- fail (printf "values: no pool of roles.%s serves the lane %s, so its jobs would wait forever" $name $lane) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Whether any role has pools. */}}
{{- define "echogen.hasPools" -}}
{{- range .Values.roles }}{{ if and .enabled .pools }}yes{{ end }}{{ end -}}
{{- end }}

{{/* The lanes of a pool as a JSON list; all if it names none. */}}
{{- define "echogen.lanes" -}}
{{- toJson (.lanes | default (list "interactive" "standard" "bulk")) -}}
{{- end }}

{{/* The labels of pods: {root, component, own, pool}. Without the versions: an upgrade that changes nothing else restarts no pod. */}}
{{- define "echogen.podLabels" -}}
{{ include "echogen.componentSelector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- with .own }}
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
{{- $volume := .Values.models.volume -}}
{{- if and (eq $volume.type "claim") $volume.readOnly (not $volume.existingClaim) -}}
{{- fail "values: models.volume.readOnly needs models.volume.existingClaim, a claim that has the weights" -}}
{{- end -}}
{{- $own := printf "%s-models" (include "echogen.fullname" .) -}}
{{- /* A claim's class and mode cannot be changed, so another class or mode is another claim. */ -}}
{{- $of := printf "%s %s" $volume.storageClass $volume.accessMode -}}
{{- if ne $of " ReadWriteMany" }}{{ $own = printf "%s-%s" $own ($of | sha256sum | trunc 8) }}{{ end -}}
{{- $volume.existingClaim | default $own -}}
{{- end }}

{{/* Who fetches the weights: a `job` for all pods, each `pod`, of which those of one folder wait for each other, or nobody. */}}
{{- define "echogen.fetchedBy" -}}
{{- $volume := .Values.models.volume -}}
{{- if and .Values.models.pull.enabled (not $volume.readOnly) -}}
{{- get (dict "claim" "job" "emptyDir" "pod" "hostPath" "pod") $volume.type -}}
{{- end -}}
{{- end }}

{{/* The folder of the bundle's weights: beside its manifest, as the program expects. */}}
{{- define "echogen.weights" -}}
/opt/echogen/bundles/{{ .Values.config.model.bundle }}
{{- end }}

{{/* Settings as TOML: {table, path}. Texts, numbers, booleans and lists are written in TOML as in JSON. */}}
{{- define "echogen.toml" -}}
{{- $path := .path -}}
{{- $own := list -}}
{{- $tables := list -}}
{{- range $name, $value := .table -}}
{{- if kindIs "map" $value -}}
{{- $tables = append $tables (include "echogen.toml" (dict "table" $value "path" (append $path $name))) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $own = append $own (printf "%s = %s" $name (toJson $value)) -}}
{{- end -}}
{{- end -}}
{{- if $own -}}
{{- $own = prepend $own (printf "[%s]" (join "." $path)) -}}
{{- $tables = prepend $tables (join "\n" $own) -}}
{{- end -}}
{{- join "\n\n" (compact $tables) -}}
{{- end }}

{{/* Writes the values of a table into another one, deeply: {into, from}. Unlike mergeOverwrite also `false` and 0. */}}
{{- define "echogen.overwrite" -}}
{{- $into := .into -}}
{{- range $name, $value := .from -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $into $name)) -}}
{{- include "echogen.overwrite" (dict "into" (get $into $name) "from" $value) -}}
{{- else if kindIs "map" $value -}}
{{- $_ := set $into $name (deepCopy $value) -}}
{{- else -}}
{{- $_ := set $into $name $value -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The text of echogen.toml: {root, own}; `own` has the settings of a role. */}}
{{- define "echogen.settings" -}}
{{- $settings := deepCopy .root.Values.config -}}
{{- $authorities := dict -}}
{{- if or .root.Values.authorities.configMap .root.Values.authorities.secret -}}
{{- range $server := .root.Values.authorities.servers -}}
{{- $_ := set $authorities $server (dict "certificates" (include "echogen.authorityFile" $.root)) -}}
{{- end -}}
{{- end -}}
{{- $listen := ternary "[::]:9464" "0.0.0.0:9464" .root.Values.ipv6 -}}
{{- range list $authorities .own (dict "telemetry" (dict "listen" $listen)) -}}
{{- include "echogen.overwrite" (dict "into" $settings "from" .) -}}
{{- end -}}
{{- include "echogen.toml" (dict "table" $settings "path" list) -}}
{{- end }}

{{/* Threads for a pod's CPUs: of its limit or, without one, of its request, rounded up; nothing if it has neither. */}}
{{- define "echogen.threads" -}}
{{- $limits := .limits | default dict -}}
{{- $requests := .requests | default dict -}}
{{- $cpu := get $limits "cpu" | default (get $requests "cpu") | default "" | toString -}}
{{- if hasSuffix "m" $cpu -}}
{{- div (add (trimSuffix "m" $cpu | int) 999) 1000 -}}
{{- else if $cpu -}}
{{- float64 $cpu | ceil | int -}}
{{- end -}}
{{- end }}

{{/* The text of a role's echogen.toml: {root, role}. */}}
{{- define "echogen.roleSettings" -}}
{{- $own := dict "worker" (dict "grace_seconds" .role.graceSeconds) -}}
{{- with .role.lanes }}{{ $_ := set $own.worker "lanes" . }}{{ end -}}
{{- $model := dict -}}
{{- with get (.role.bundle | default dict) "name" }}{{ $_ := set $model "bundle" . }}{{ end -}}
{{- if gt (int .role.gpu.count) 0 -}}
{{- /* Not `auto`: a pod that does not find its GPU must fail at its start instead of being slow. */ -}}
{{- $_ := set $model "device" "cuda" -}}
{{- end -}}
{{- $threads := include "echogen.threads" .role.resources -}}
{{- if and $threads (not .root.Values.config.model.threads) -}}
{{- /* Absent, it would be one for each core of the node, of which the pod has a share. */ -}}
{{- $_ := set $model "threads" (int $threads) -}}
{{- end -}}
{{- if $model -}}
{{- $_ := set $own "model" $model -}}
{{- end -}}
{{- include "echogen.overwrite" (dict "into" $own "from" .role.config) -}}
{{- include "echogen.settings" (dict "root" .root "own" $own) -}}
{{- end }}

{{/* Variables whose values are in other Secrets, by key. */}}
{{- define "echogen.secretVariables" -}}
{{- range $name, $from := .Values.secret.from }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $from.name }}, key: {{ $from.key }}}
{{- end }}
{{- end }}

{{/* Where the authorities of servers are. */}}
{{- define "echogen.authorityFile" -}}
/etc/echogen-authorities/{{ .Values.authorities.key }}
{{- end }}

{{/* The environment of a container that reads the settings: {root, env, extra}. */}}
{{- define "echogen.environment" -}}
{{- $variables := dict "ECHOGEN_CONFIG" "/etc/echogen/echogen.toml" -}}
{{- range list .root.Values.env .env -}}
{{- include "echogen.overwrite" (dict "into" $variables "from" .) -}}
{{- end -}}
{{- $from := .root.Values.secret.from }}
envFrom:
  - secretRef:
      name: {{ include "echogen.secretName" .root }}
      {{- if hasKey $from "ECHOGEN_BROKER_URL" }}
      # All that is needed may be in the Secrets below.
      optional: true
      {{- end }}
env:
  {{- range $name, $value := $variables }}
  - name: {{ $name }}
    value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
  {{- end }}
  {{- with include "echogen.secretVariables" .root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .extra }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The files of settings, by their name. */}}
{{- define "echogen.files" -}}
echogen.toml: |
  {{- include "echogen.settings" (dict "root" . "own" dict) | nindent 2 }}
{{- range $name, $role := .Values.roles }}
{{- if $role.enabled }}
{{- range $pool := include "echogen.pools" $role | fromJsonArray }}
{{- $own := deepCopy $role }}
{{- include "echogen.overwrite" (dict "into" $own "from" $pool) }}
{{ $name }}{{ include "echogen.poolSuffix" $pool }}.toml: |
  {{- include "echogen.roleSettings" (dict "root" $ "role" $own) | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.gateway.enabled }}
gateway.toml: |
  {{- include "echogen.gatewaySettings" . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The text of the gateway's echogen.toml. */}}
{{- define "echogen.gatewaySettings" -}}
{{- $host := ternary "[::]" "0.0.0.0" .Values.ipv6 -}}
{{- $listen := dict "listen" (printf "%s:8080" $host) "tenants" "/etc/echogen-tenants/tenants.toml" -}}
{{- if .Values.gateway.admin.enabled }}{{ $_ := set $listen "admin_listen" (printf "%s:8081" $host) }}{{ end -}}
{{- $own := dict "gateway" $listen -}}
{{- include "echogen.overwrite" (dict "into" $own "from" .Values.gateway.config) -}}
{{- include "echogen.settings" (dict "root" . "own" $own) -}}
{{- end }}

{{/* Annotations that restart the pods when what they read at their start has changed. */}}
{{- define "echogen.checksums" -}}
{{- /* Of the content alone: labels name the chart's version, which restarts nothing. */}}
checksum/config: {{ printf "%s %s" (include "echogen.files" .) .Values.models.manifest | sha256sum }}
{{- if .Values.secret.create }}
checksum/secret: {{ toJson .Values.secret.values | sha256sum }}
{{- else if .Values.secret.checksum }}
checksum/secret: {{ .Values.secret.checksum | quote }}
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

{{/* Over zones and nodes where possible, or as `own` says: {root, component, own, pool}. */}}
{{- define "echogen.spread" -}}
{{- if .own -}}
{{ toYaml .own }}
{{- else -}}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "echogen.componentSelector" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where and how a pod runs, from its values. */}}
{{- define "echogen.scheduling" -}}
{{- range $name := list "priorityClassName" "runtimeClassName" "schedulerName" }}
{{- with get $ $name }}
{{ $name }}: {{ . }}
{{- end }}
{{- end }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "hostAliases" }}
{{- with get $ $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* The mounts of every container. */}}
{{- define "echogen.settingsMounts" -}}
- name: tmp
  mountPath: /tmp
- name: settings
  mountPath: /etc/echogen
  readOnly: true
{{- if or .Values.authorities.configMap .Values.authorities.secret }}
- name: authorities
  mountPath: /etc/echogen-authorities
  readOnly: true
{{- end }}
{{- end }}

{{/* The volumes of every pod: {root, key, size}: the file's key in the ConfigMap, the size of the temporary folder. */}}
{{- define "echogen.settingsVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .size }}}
- name: settings
  configMap:
    name: {{ include "echogen.fullname" .root }}
    items: [{key: {{ .key }}, path: echogen.toml}]
{{- $authorities := .root.Values.authorities }}
{{- if $authorities.configMap }}
- name: authorities
  configMap:
    name: {{ $authorities.configMap }}
    items: [{key: {{ $authorities.key }}, path: {{ $authorities.key }}}]
{{- else if $authorities.secret }}
- name: authorities
  secret:
    secretName: {{ $authorities.secret }}
    items: [{key: {{ $authorities.key }}, path: {{ $authorities.key }}}]
{{- end }}
{{- end }}

{{/* The mounts of a container that reads the bundle: {root, write}. */}}
{{- define "echogen.mounts" -}}
{{ include "echogen.settingsMounts" .root }}
{{- if ne .root.Values.models.volume.type "image" }}
- name: models
  mountPath: {{ include "echogen.weights" .root }}
  {{- $volume := .root.Values.models.volume }}
  {{- if or (not .write) $volume.readOnly (eq $volume.type "imageVolume") }}
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

{{/* The volumes of such a pod: {root, key}. */}}
{{- define "echogen.volumes" -}}
{{ include "echogen.settingsVolumes" (dict "root" .root "key" .key "size" "256Mi") }}
{{- if eq .root.Values.models.volume.type "claim" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ include "echogen.claimName" .root }}
    {{- if .root.Values.models.volume.readOnly }}
    readOnly: true
    {{- end }}
{{- else if eq .root.Values.models.volume.type "emptyDir" }}
- name: models
  emptyDir: {sizeLimit: {{ .root.Values.models.volume.size }}}
{{- else if eq .root.Values.models.volume.type "source" }}
- name: models
  {{- toYaml .root.Values.models.volume.source | nindent 2 }}
{{- else if eq .root.Values.models.volume.type "imageVolume" }}
{{- $image := .root.Values.models.volume.image }}
- name: models
  image: {reference: {{ required "values: models.volume.image.reference names no image" $image.reference | quote }}, pullPolicy: {{ $image.pullPolicy }}}
{{- else if eq .root.Values.models.volume.type "hostPath" }}
- name: models
  # It must be there: Kubernetes would create it for root alone.
  hostPath: {path: {{ required "values: models.volume.hostPath names no folder" .root.Values.models.volume.hostPath | quote }}, type: Directory}
{{- end }}
{{- if .root.Values.models.manifest }}
- name: manifest
  configMap:
    name: {{ include "echogen.fullname" .root }}-bundle
{{- end }}
{{- end }}

{{/* A container that runs `echogen models …`: {root, name, command}. */}}
{{- define "echogen.modelsContainer" -}}
{{- $root := .root -}}
- name: {{ .name }}
  image: {{ include "echogen.image" (dict "root" $root "cuda" false) }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args: [models, {{ .command }}, {{ $root.Values.config.model.bundle | quote }}]
  env:
    - name: ECHOGEN_CONFIG
      value: /etc/echogen/echogen.toml
    {{- if eq .command "pull" }}
    # The only secret that it needs.
    - name: ECHOGEN_MODEL_HUB_TOKEN
      valueFrom:
        secretKeyRef:
          name: {{ include "echogen.secretName" $root }}
          key: ECHOGEN_MODEL_HUB_TOKEN
          optional: true
    {{- end }}
    {{- with $root.Values.models.pull.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  securityContext:
    {{- toYaml $root.Values.securityContext | nindent 4 }}
  resources:
    {{- toYaml $root.Values.models.pull.resources | nindent 4 }}
  volumeMounts:
    # Verifying writes, too: checksums that are not published are recorded the first time.
    {{- include "echogen.mounts" (dict "root" $root "write" true) | nindent 4 }}
    {{- with $root.Values.models.pull.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* The file that says that a shared volume has this bundle's weights. */}}
{{- define "echogen.weightsMark" -}}
{{- $of := list .Values.config.model.bundle .Values.models.manifest (include "echogen.image" (dict "root" . "cuda" false)) -}}
{{ include "echogen.weights" . }}/.complete-{{ toJson $of | sha256sum | trunc 8 }}
{{- end }}

{{/* A container that runs a shell in the folder of weights: {root, name, script, write}. */}}
{{- define "echogen.markContainer" -}}
- name: {{ .name }}
  image: {{ include "echogen.image" (dict "root" .root "cuda" false) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [sh, -c, {{ .script | quote }}]
  securityContext:
    {{- toYaml .root.Values.securityContext | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - name: models
      mountPath: {{ include "echogen.weights" .root }}
      {{- if not .write }}
      readOnly: true
      {{- end }}
{{- end }}

{{/* The init containers of a role's pod. A Job fills a shared volume; until then they wait, and read nothing. */}}
{{- define "echogen.initContainers" -}}
{{- $models := .Values.models -}}
{{- $fetchedBy := include "echogen.fetchedBy" . }}
{{- if eq $fetchedBy "pod" }}
{{ include "echogen.modelsContainer" (dict "root" . "name" "pull" "command" "pull") }}
{{- end }}
{{- if eq $fetchedBy "job" }}
{{- $mark := include "echogen.weightsMark" . }}
{{- $script := printf "until [ -e %s ]; do sleep 5; done" $mark }}
{{ include "echogen.markContainer" (dict "root" . "name" "wait" "script" $script "write" false) }}
{{- end }}
{{- if and (ne $models.volume.type "image") $models.verify }}
{{ include "echogen.modelsContainer" (dict "root" . "name" "verify" "command" "verify") }}
{{- end }}
{{- end }}

{{/* Matchers that select this installation's series, each followed by a comma. */}}
{{- define "echogen.matchers" -}}
{{- with .Values.metrics.labels.namespace }}{{ printf "%s=%q," . $.Release.Namespace }}{{ end -}}
{{- with .Values.metrics.labels.release }}{{ printf "%s=%q," . $.Release.Name }}{{ end -}}
{{- end }}

{{/* How many pods a stage needs, or a pool of it: {root, stage, own, pools}. deploy/tests/scaler.py simulates it. Queues count as
processes report that consume: others keep the last value that they saw. No process of a role that sleeps reports seconds, but
dispatchers its queues. Of a lane that several pools serve each counts its part. */}}
{{- define "echogen.podsWanted" -}}
{{- $all := include "echogen.matchers" .root -}}
{{- $queues := printf "%sstage=%q" $all .stage -}}
{{- $m := $queues -}}
{{- if .own.name }}{{ $m = printf "%s,pool=%q" $m .own.name }}{{ end -}}
{{- $hand := printf "sum(clamp_max(echogen_tasks_in_progress{%s} / %v, 1)) or vector(0)" $m .own.tasksPerPod -}}
{{- $fresh := "and on (instance) echogen_consuming{%s} == 1" -}}
{{- $eyes := printf "%sstage=\"dispatcher\"" $all -}}
{{- $seconds := list -}}
{{- $messages := list -}}
{{- range $share, $lanes := include "echogen.shares" . | fromJson -}}
{{- $some := ternary (printf ",lane=~%q" (join "|" $lanes)) "" (not (empty $lanes)) -}}
{{- $part := ternary "" (printf " * %s" $share) (eq $share "1") -}}
{{- $own := printf $fresh $m -}}
{{- $seconds = append $seconds (printf "max by (lane) (echogen_work_waiting_seconds{%s%s} %s)%s" $m $some $own $part) -}}
{{- $seen := printf $fresh $eyes -}}
{{- $messages = append $messages (printf "max by (lane) (echogen_queue_messages{%s%s} %s)%s" $queues $some $seen $part) -}}
{{- end -}}
{{- $seconds = printf "sum(%s) / %v" (join " or " $seconds) .own.secondsPerPod -}}
{{- $messages = printf "sum(%s) / %v" (join " or " $messages) .own.messagesPerPod -}}
{{- $loading := printf "scalar(count(echogen_ready{%s} == 0) or vector(0))" $m -}}
{{- printf "(%s) + clamp_min(%s or %s, %s)" $hand $seconds $messages $loading -}}
{{- end }}

{{/* What part of each lane's work a pool counts, as JSON: lanes by their part, which is the pool's `max` among those of all pools
that serve the lane. `all` stands for tasks of earlier versions, which belong to no lane. Without pools, everything. */}}
{{- define "echogen.shares" -}}
{{- $shares := dict -}}
{{- if .own.name -}}
{{- $mine := include "echogen.lanes" .own | fromJsonArray -}}
{{- range $lane := append $mine "all" -}}
{{- $total := 0 -}}
{{- range $pool := $.pools -}}
{{- if or (eq $lane "all") (has $lane (include "echogen.lanes" $pool | fromJsonArray)) }}{{ $total = add $total (int $pool.max) }}{{ end -}}
{{- end -}}
{{- $share := printf "%.3g" (divf (float64 $.own.max) (float64 $total)) -}}
{{- $_ := set $shares $share (append (get $shares $share | default list) $lane) -}}
{{- end -}}
{{- else -}}
{{- $_ := set $shares "1" list -}}
{{- end -}}
{{- toJson $shares -}}
{{- end }}

{{/* A role's pools as JSON, each with its name, lanes, price and the values of its scaling. */}}
{{- define "echogen.scaledPools" -}}
{{- $found := list -}}
{{- $role := . -}}
{{- range $pool := include "echogen.pools" $role | fromJsonArray -}}
{{- $scaling := deepCopy $role.autoscaling -}}
{{- include "echogen.overwrite" (dict "into" $scaling "from" ($pool.autoscaling | default dict)) -}}
{{- $start := $pool.startupSeconds | default $role.startupSeconds -}}
{{- $scaling = merge (dict "name" $pool.name "lanes" $pool.lanes "startupSeconds" $start "price" $pool.price) $scaling -}}
{{- $found = append $found $scaling -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{/* The longest start of what may be scaled to zero, in seconds; 0 if nothing is: {root, lanes}. A lane sleeps if all pools that
serve it may. */}}
{{- define "echogen.coldStart" -}}
{{- $longest := 0 -}}
{{- range $role := .root.Values.roles -}}
{{- if and $.root.Values.autoscaling.enabled $role.enabled -}}
{{- $pools := include "echogen.scaledPools" $role | fromJsonArray -}}
{{- range $lane := $.lanes -}}
{{- $start := 0 -}}
{{- $awake := false -}}
{{- range $pool := $pools -}}
{{- if has $lane (include "echogen.lanes" $pool | fromJsonArray) -}}
{{- if eq (int $pool.min) 0 }}{{ $start = max $start (int $pool.startupSeconds) }}{{ else }}{{ $awake = true }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if not $awake }}{{ $longest = max $longest $start }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $longest -}}
{{- end }}

{{/* A file of rules, filled in as deploy/mixin.py does: {root, file}. */}}
{{- define "echogen.rules" -}}
{{- $root := .root -}}
{{- $given := $root.Values.metrics.rules -}}
{{- $values := $root.Files.Get "files/mixin/values.yaml" | fromYaml -}}
{{- $thresholds := $values.thresholds -}}
{{- /* While a role starts from zero, tasks wait and nothing is wrong. */ -}}
{{- $lanes := include "echogen.lanes" dict | fromJsonArray -}}
{{- $cold := int (include "echogen.coldStart" (dict "root" $root "lanes" $lanes)) -}}
{{- if $cold -}}
{{- range $name := list "stuck_for" "not_ready_for" -}}
{{- $_ := set $thresholds $name (printf "%dm" (add (div $cold 60) 5)) -}}
{{- end -}}
{{- $_ := set $thresholds "canary_slow_seconds" (add $cold (int $thresholds.canary_slow_seconds)) -}}
{{- end -}}
{{- include "echogen.overwrite" (dict "into" $thresholds "from" $given.thresholds) -}}
{{- $objectives := $values.objectives -}}
{{- include "echogen.overwrite" (dict "into" $objectives "from" $given.objectives) -}}
{{- $labels := compact (list $root.Values.metrics.labels.namespace $root.Values.metrics.labels.release) -}}
{{- $text := $root.Files.Get (printf "files/mixin/rules/%s.yaml" .file) -}}
{{- $text = $text | replace "<installation>, " (ternary "" (printf "%s, " (join ", " $labels)) (empty $labels)) -}}
{{- $text = $text | replace "<installation>" (join ", " $labels) -}}
{{- $process := $values.process -}}
{{- if include "echogen.hasPools" $root }}{{ $process = append $process "pool" }}{{ end -}}
{{- $text = $text | replace "<process>" (join ", " $process) -}}
{{- $text = $text | replace "<selector>" (include "echogen.matchers" $root) -}}
{{- $paging := list -}}
{{- range $lane, $promised := $objectives -}}
{{- if $promised.page }}{{ $paging = append $paging $lane }}{{ end -}}
{{- range $name := list "availability" "latency" "latency_seconds" -}}
{{- $text = $text | replace (printf "<%s_%s>" $name $lane) (toString (get $promised $name)) -}}
{{- end -}}
{{- end -}}
{{- $text = $text | replace "<all_lanes>" (keys $objectives | sortAlpha | join "|") -}}
{{- $text = $text | replace "<paging_lanes>" (join "|" $paging | default "none") -}}
{{- range $name, $value := $thresholds -}}
{{- $text = $text | replace (printf "<%s>" $name) (toString $value) -}}
{{- end -}}
{{- with $given.runbookUrl -}}
{{- $text = $text | replace "runbook: docs/operations.md" (printf "runbook_url: %s" .) -}}
{{- end -}}
{{- replace "{}" "" $text -}}
{{- end }}

{{/* The stage that a role is named after and scaled by, from the list of stages: {root, role}. */}}
{{- define "echogen.stage" -}}
{{- $role := .role -}}
{{- range (.root.Files.Get "files/stages.json" | fromJson).roles -}}
{{- if eq .name $role }}{{ first .stages }}{{ end -}}
{{- end -}}
{{- end }}
