"""What every pod of Anneal shares: storage, artifacts, outcomes of a stage, chat encoding. Never torch."""
