// The Gateway API's CRDs, which a test tries a sample on; nothing is built of it.
module anneal.dev/cluster/tools/gateway-api

go 1.25.0

require sigs.k8s.io/gateway-api v1.4.1
