"""The loop and what it decides by: plan, objectives, balance, schedules, validation."""
