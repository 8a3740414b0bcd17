"""Many experiments described in one file: plan, cost, run."""
