"""`anneal`, also `kubectl anneal`: what runs and endpoints are doing, for the person who asked for them."""
