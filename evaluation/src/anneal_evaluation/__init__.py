"""Trustworthy scores: suites, a sandbox for untrusted code, comparisons of models, reports.

Layers: commands > reports and scoring > suites > sandbox. The sandbox's own side in its processes needs the
standard library alone, and this file imports nothing, so that its processes stay small.
"""
