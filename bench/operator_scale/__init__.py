"""`make bench-operator`: the operator beside Kubeflow Trainer with JobSet, on a real API server without nodes."""
