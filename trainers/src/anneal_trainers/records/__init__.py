"""What a run leaves in the store: checkpoints and the ledger of its steps."""
