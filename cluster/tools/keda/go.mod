// KEDA's CRDs, which a test tries a sample on; nothing is built of it.
module anneal.dev/cluster/tools/keda

go 1.25.0

require github.com/kedacore/keda/v2 v2.20.2
