"""What methods are made of: samples, gradients, divergences, other weights for a while, what earlier tasks left."""
