"""The container images: one Containerfile each, and the script that builds and pushes them.

Standard library only: it runs before any virtual environment exists.
"""
