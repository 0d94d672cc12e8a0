"""What decides about documents before they become token ids: pure functions, and files only where sets grow large."""
