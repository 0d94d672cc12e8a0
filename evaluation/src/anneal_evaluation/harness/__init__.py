"""Natural-language suites: tasks of EleutherAI's lm-evaluation-harness, by its own runner, on any endpoint.

lm-eval pulls in datasets, pandas and scikit-learn, so it has an environment of its own and is imported by `run` alone.
"""
