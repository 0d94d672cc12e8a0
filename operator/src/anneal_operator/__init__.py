"""The operator: turns FineTuneJobs and ModelDeployments into Jobs, Deployments and a status."""
