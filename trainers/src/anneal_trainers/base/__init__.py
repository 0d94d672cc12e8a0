"""The base model: its weights, what is trained on it, and how both become one again."""
