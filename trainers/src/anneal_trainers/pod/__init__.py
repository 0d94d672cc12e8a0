"""The processes of a training pod: launcher, ranks, their group, and what they tell."""
