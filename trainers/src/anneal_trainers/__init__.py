"""What the pods of a FineTuneJob run: inspect, prepare, train, evaluate, export."""
