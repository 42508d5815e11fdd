{{/* Names are the topology document's: billing-api, billing-handlers, billing-worker, billing-migrate. */}}
{{- define "billing.name" -}}
{{- .Values.nameOverride | default "billing" | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "billing.labels" -}}
app.kubernetes.io/name: {{ include "billing.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: billing
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Values.image.tag | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* The labels that select pods; they never change in the life of a workload. */}}
{{- define "billing.selector" -}}
app.kubernetes.io/name: {{ include "billing.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "billing.image" -}}
{{- $image := .image -}}
{{- if $image.digest -}}
{{ .repository }}@{{ $image.digest }}
{{- else -}}
{{ .repository }}:{{ required "image.tag is required: the commit the image was built from" $image.tag }}
{{- end -}}
{{- end -}}

{{/* What the code declares: durables, permissions, routes. Written by tools/deploy/chart_files.py. */}}
{{- define "billing.topology" -}}
{{- .Files.Get "files/topology.json" -}}
{{- end -}}

{{/* The Secrets a role mounts as directories: name -> keys are in externalsecrets.yaml and README.md. */}}
{{- define "billing.secretNames" -}}
{{- $root := .root -}}{{- $role := .role -}}
{{- $names := list "nats" -}}
{{- if ne $role "api" }}{{ $names = append $names "database" }}{{ end -}}
{{- if and (has $role (list "handlers" "worker")) (eq $root.Values.objectStore.credentials "vault") }}{{ $names = append $names "object-store" }}{{ end -}}
{{- if and (eq $role "api") $root.Values.redis.enabled }}{{ $names = append $names "redis" }}{{ end -}}
{{- if and (has $role (list "api" "worker")) $root.Values.paymentGateways.tenants }}{{ $names = append $names "payment-gateways" }}{{ end -}}
{{- if and (has $role (list "handlers" "worker")) $root.Values.contactKeys.enabled }}{{ $names = append $names "contact-keys" }}{{ end -}}
{{- toJson $names -}}
{{- end -}}

{{/* The client certificates a role has. */}}
{{- define "billing.certificateNames" -}}
{{- $root := .root -}}{{- $role := .role -}}
{{- $names := list -}}
{{- if $root.Values.nats.tls.enabled }}{{ $names = append $names "nats" }}{{ end -}}
{{- if and (ne $role "api") $root.Values.database.tls.enabled }}{{ $names = append $names "postgresql" }}{{ end -}}
{{- if and (has $role (list "handlers" "worker")) $root.Values.neighbours.tls.enabled }}{{ $names = append $names "services" }}{{ end -}}
{{- toJson $names -}}
{{- end -}}

{{- define "billing.secretDirectory" -}}/var/run/secrets/billing/{{ . }}{{- end -}}
{{- define "billing.certificateDirectory" -}}/var/run/secrets/billing-tls/{{ . }}{{- end -}}

{{- define "billing.graceSeconds" -}}
{{- add .preStop .root.Values.shutdownGraceSeconds .root.Values.graceMarginSeconds -}}
{{- end -}}

{{- define "billing.meshAnnotations" -}}
{{- $ports := join "," .Values.mesh.skipOutboundPorts -}}
{{- if eq .Values.mesh.provider "linkerd" }}
linkerd.io/inject: enabled
config.linkerd.io/skip-outbound-ports: {{ $ports | quote }}
# Prometheus and the kubelet are not in the mesh.
config.linkerd.io/skip-inbound-ports: "9464"
config.linkerd.io/default-inbound-policy: all-authenticated
# A native sidecar: it starts before us and ends after us, so that draining still has a network.
config.linkerd.io/proxy-enable-native-sidecar: "true"
{{- else if eq .Values.mesh.provider "istio" }}
traffic.sidecar.istio.io/excludeOutboundPorts: {{ $ports | quote }}
traffic.sidecar.istio.io/excludeInboundPorts: "9464"
sidecar.istio.io/nativeSidecar: "true"
{{- end }}
{{- end -}}

{{- define "billing.env" -}}
{{- $root := .root -}}{{- $role := .role -}}{{- $values := .root.Values -}}
{{- $secrets := include "billing.secretNames" (dict "root" $root "role" $role) | fromJsonArray -}}
{{- $certificates := include "billing.certificateNames" (dict "root" $root "role" $role) | fromJsonArray -}}
- {name: ENVIRONMENT, value: {{ $values.environment | quote }}}
- {name: REGION, value: {{ required "region.name is required: there is no default region" $values.region.name | quote }}}
- {name: COUNTRY_PROFILE, value: {{ required "region.countryProfile is required: there is no default country" $values.region.countryProfile | quote }}}
- {name: SHUTDOWN_GRACE_SECONDS, value: {{ $values.shutdownGraceSeconds | quote }}}
- {name: METRICS_PORT, value: "9464"}
{{- if ne $role "migrate" }}
- {name: LOG_LEVEL, value: {{ $values.telemetry.logLevel | quote }}}
- {name: LOG_FORMAT, value: json}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ required "telemetry.otlpEndpoint is required: the region's collector" $values.telemetry.otlpEndpoint | quote }}}
- {name: OTEL_SERVICE_NAME, value: {{ printf "%s-%s" (include "billing.name" $root) $role | quote }}}
- {name: TRACE_SAMPLE_RATIO, value: {{ $values.telemetry.traceSampleRatio | quote }}}
{{- end }}
- {name: NATS_URL, value: {{ required "nats.url is required: the region's cluster" $values.nats.url | quote }}}
- {name: NATS_REPLICAS, value: {{ $values.nats.replicas | quote }}}
- {name: NATS_CREDS, value: {{ include "billing.secretDirectory" "nats" }}/nats.creds}
{{- if has "nats" $certificates }}
- {name: NATS_TLS_CA_FILE, value: {{ include "billing.certificateDirectory" "nats" }}/ca.crt}
- {name: NATS_TLS_CERT_FILE, value: {{ include "billing.certificateDirectory" "nats" }}/tls.crt}
- {name: NATS_TLS_KEY_FILE, value: {{ include "billing.certificateDirectory" "nats" }}/tls.key}
{{- end }}
{{- if has "database" $secrets }}
- {name: DATABASE_URL_FILE, value: {{ include "billing.secretDirectory" "database" }}/DATABASE_URL}
{{- if and (has $role (list "handlers" "worker")) $values.database.readReplica }}
- {name: DATABASE_READ_URL_FILE, value: {{ include "billing.secretDirectory" "database" }}/DATABASE_READ_URL}
{{- end }}
{{- if eq $role "worker" }}
- {name: DATABASE_RELAY_URL_FILE, value: {{ include "billing.secretDirectory" "database" }}/DATABASE_RELAY_URL}
{{- end }}
- {name: DATABASE_POOL_SIZE, value: {{ $values.database.poolSize | quote }}}
{{- if has "postgresql" $certificates }}
# asyncpg reads these, at every connection: a renewed certificate needs no restart.
- {name: PGSSLMODE, value: {{ $values.database.tls.mode }}}
- {name: PGSSLROOTCERT, value: {{ include "billing.certificateDirectory" "postgresql" }}/ca.crt}
- {name: PGSSLCERT, value: {{ include "billing.certificateDirectory" "postgresql" }}/tls.crt}
- {name: PGSSLKEY, value: {{ include "billing.certificateDirectory" "postgresql" }}/tls.key}
{{- end }}
{{- end }}
{{- if eq $role "api" }}
- {name: HTTP_PORT, value: "3035"}
- {name: JWKS_URL, value: {{ required "jwt.jwksUrl is required" $values.jwt.jwksUrl | quote }}}
- {name: JWT_ISSUER, value: {{ required "jwt.issuer is required" $values.jwt.issuer | quote }}}
- {name: JWT_AUDIENCE, value: {{ $values.jwt.audience | quote }}}
{{- if has "redis" $secrets }}
- {name: REDIS_URL_FILE, value: {{ include "billing.secretDirectory" "redis" }}/REDIS_URL}
{{- end }}
{{- end }}
{{- if has $role (list "handlers" "worker") }}
- {name: TENANT_SERVICE_URL, value: {{ required "neighbours.tenantServiceUrl is required" $values.neighbours.tenantServiceUrl | quote }}}
- {name: TERMINOLOGY_SERVICE_URL, value: {{ required "neighbours.terminologyServiceUrl is required" $values.neighbours.terminologyServiceUrl | quote }}}
{{- if eq $role "worker" }}
- {name: FHIR_GATEWAY_URL, value: {{ required "neighbours.fhirGatewayUrl is required" $values.neighbours.fhirGatewayUrl | quote }}}
{{- end }}
{{- with $values.neighbours.aiGatewayUrl }}
- {name: AI_GATEWAY_URL, value: {{ . | quote }}}
{{- end }}
{{- if has "services" $certificates }}
- {name: NEIGHBOUR_TLS_CA_FILE, value: {{ include "billing.certificateDirectory" "services" }}/ca.crt}
- {name: NEIGHBOUR_TLS_CERT_FILE, value: {{ include "billing.certificateDirectory" "services" }}/tls.crt}
- {name: NEIGHBOUR_TLS_KEY_FILE, value: {{ include "billing.certificateDirectory" "services" }}/tls.key}
{{- end }}
- {name: OBJECT_STORE_BUCKET, value: {{ required "objectStore.bucket is required: the region's bucket" $values.objectStore.bucket | quote }}}
- {name: OBJECT_STORE_REGION, value: {{ required "objectStore.region is required" $values.objectStore.region | quote }}}
{{- with $values.objectStore.endpointUrl }}
- {name: OBJECT_STORE_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- if has "object-store" $secrets }}
- {name: OBJECT_STORE_ACCESS_KEY_ID_FILE, value: {{ include "billing.secretDirectory" "object-store" }}/OBJECT_STORE_ACCESS_KEY_ID}
- {name: OBJECT_STORE_SECRET_ACCESS_KEY_FILE, value: {{ include "billing.secretDirectory" "object-store" }}/OBJECT_STORE_SECRET_ACCESS_KEY}
{{- end }}
{{- with $values.objectStore.kmsKeyArn }}
- {name: KMS_KEY_ARN, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- if eq $role "worker" }}
- {name: WORKER, value: "true"}
{{- with $values.paymentGateways.allowedHosts }}
- {name: GATEWAY_ALLOWED_HOSTS, value: {{ join "," . | quote }}}
{{- end }}
{{- end }}
{{- if has "contact-keys" $secrets }}
# Followed while the process runs.
- {name: CONTACT_KEYS, value: {{ include "billing.secretDirectory" "contact-keys" }}/CONTACT_KEYS}
{{- end }}
{{- if has "payment-gateways" $secrets }}
# One file per tenant, followed while the process runs: keys and webhook secrets rotate without a restart.
- {name: SECRETS_DIR, value: {{ include "billing.secretDirectory" "payment-gateways" }}}
{{- end }}
{{- range $name, $value := .extra }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{/*
The pod of every role. Arguments: root, role, component (the workload's label), args, preStop, resources, env (a map), image;
restartPolicy and probes for the job.
*/}}
{{- define "billing.podTemplate" -}}
{{- $root := .root -}}{{- $values := .root.Values -}}{{- $role := .role -}}
{{- $job := eq $role "migrate" -}}
{{- $secrets := include "billing.secretNames" (dict "root" $root "role" $role) | fromJsonArray -}}
{{- $certificates := include "billing.certificateNames" (dict "root" $root "role" $role) | fromJsonArray -}}
{{- $name := include "billing.name" $root -}}
metadata:
  labels:
    {{- include "billing.labels" (dict "root" $root "component" .component) | nindent 4 }}
    billing/role: {{ $role }}
    {{- if eq $values.mesh.provider "istio" }}
    sidecar.istio.io/inject: {{ not $job | quote }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: billing
    {{- if $job }}
    # A job ends when its container does; a sidecar would keep it alive on meshes without native ones.
    linkerd.io/inject: disabled
    {{- else }}
    {{- include "billing.meshAnnotations" $root | indent 4 }}
    {{- end }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ $name }}-{{ $role }}
  # The service never speaks to the Kubernetes API.
  automountServiceAccountToken: false
  {{- with $values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ include "billing.graceSeconds" (dict "root" $root "preStop" .preStop) }}
  {{- if $job }}
  restartPolicy: Never
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  {{- with $values.region.nodeRegion }}
  # Patient data is in memory, too: pods stay in the region.
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
          - matchExpressions:
              - {key: topology.kubernetes.io/region, operator: In, values: [{{ . | quote }}]}
  {{- end }}
  {{- if not $job }}
  topologySpreadConstraints:
    {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ $key }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "billing.selector" (dict "root" $root "component" $.component) | nindent 10 }}
    {{- end }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: billing
      image: {{ include "billing.image" (dict "repository" $values.image.repository "image" .image) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: {{ toJson .args }}
      env:
        {{- include "billing.env" (dict "root" $root "role" $role "extra" (merge (dict) .env $values.env)) | nindent 8 }}
      {{- if not $job }}
      ports:
        {{- if eq $role "api" }}
        - {name: http, containerPort: 3035, protocol: TCP}
        {{- end }}
        - {name: metrics, containerPort: 9464, protocol: TCP}
      # A check of the service may take 2 s, so the kubelet waits longer. Liveness is the process's own: its event loop and
      # consumers, never a neighbour.
      startupProbe:
        httpGet: {path: /livez, port: metrics}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- if gt (int .preStop) 0 }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ .preStop }}}
      {{- end }}
      {{- end }}
      resources: {{- toYaml .resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        # Directories, never subPath: only so does a rotated secret reach the pod.
        {{- range $secrets }}
        - {name: secret-{{ . }}, mountPath: {{ include "billing.secretDirectory" . }}, readOnly: true}
        {{- end }}
        {{- range $certificates }}
        - {name: tls-{{ . }}, mountPath: {{ include "billing.certificateDirectory" . }}, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    {{- range $secrets }}
    - name: secret-{{ . }}
      secret: {secretName: {{ $name }}-{{ $role }}-{{ . }}, defaultMode: 0440}
    {{- end }}
    {{- range $certificates }}
    - name: tls-{{ . }}
      secret: {secretName: {{ $name }}-{{ $role }}-{{ . }}-tls, defaultMode: 0440}
    {{- end }}
{{- end -}}

{{/* Annotations of a workload: Reloader restarts it when a Secret that is read at the start changes. */}}
{{- define "billing.workloadAnnotations" -}}
{{- $root := .root -}}{{- $role := .role -}}
{{- if $root.Values.secrets.reloader }}
{{- $watched := list -}}
{{- range include "billing.secretNames" (dict "root" $root "role" $role) | fromJsonArray }}
{{- if not (has . (list "payment-gateways" "contact-keys")) }}{{ $watched = append $watched (printf "%s-%s-%s" (include "billing.name" $root) $role .) }}{{ end -}}
{{- end }}
secret.reloader.stakater.com/reload: {{ join "," $watched | quote }}
{{- end }}
{{- end -}}

{{/* Hooks of what the migrate job needs before anything else of the release exists. */}}
{{- define "billing.hook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation
{{- end -}}

{{/* The workloads that consume the command stream: name, component, groups, canary. */}}
{{- define "billing.handlerSets" -}}
{{- $name := include "billing.name" . -}}
{{- $topology := include "billing.topology" . | fromJson -}}
{{- $sets := list -}}
{{- if .Values.handlers.perGroup -}}
{{- range $topology.groups -}}
{{- $sets = append $sets (dict "name" (printf "%s-handlers-%s" $name .) "component" (printf "handlers-%s" .) "groups" (list .)) -}}
{{- end -}}
{{- else -}}
{{- $sets = append $sets (dict "name" (printf "%s-handlers" $name) "component" "handlers" "groups" $topology.groups) -}}
{{- end -}}
{{- toJson $sets -}}
{{- end -}}

{{/* One trigger of a trigger's query: judged only with enough fresh samples. The same text as tools/cli/canary.py makes. */}}
{{- define "billing.canaryQuery" -}}
{{- $t := .trigger -}}
{{- $query := printf "(%s) and on() ((%s) >= %v) and on() ((%s) <= %v)" $t.value $t.samples $t.minimum_samples $t.age_seconds $t.maximum_age_seconds -}}
{{- $query | replace "$scope" .scope | replace "$api" .api | replace "$handlers" .handlers | replace "$window" .window | replace "$minimum" (printf "%v" $t.minimum_samples) -}}
{{- end -}}
