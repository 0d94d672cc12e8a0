"""The one place that holds Anneal's version."""

VERSION = "0.1.0"
