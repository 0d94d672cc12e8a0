"""Untrusted code in processes of its own, and the verdict in another.

runner (trusted, the caller's process) > warden (one a sample: limits, time, cleaning up) >
two cells forked from it before it knows anything worth hiding: the worker runs the code, the judge the tests.
"""
