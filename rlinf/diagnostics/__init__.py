"""What training changed: of the weights, and of what the policy would do."""
