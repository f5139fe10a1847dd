"""The `carracing_rollouts` dataset: CarRacing episodes in 32-step segments."""
