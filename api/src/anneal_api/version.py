"""The one place that holds Anneal's version: packages and images read it here, `python -m anneal_api.generate` tells the chart."""

VERSION = "0.1.0"
