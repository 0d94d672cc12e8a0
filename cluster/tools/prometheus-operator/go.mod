// The Prometheus operator's CRDs, which a test tries the chart's monitors and rules on; nothing is built of it.
module anneal.dev/cluster/tools/prometheus-operator

go 1.25.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
