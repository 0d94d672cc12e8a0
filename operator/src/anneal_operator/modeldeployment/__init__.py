"""ModelDeployment: observe, decide, and one file for each policy."""
