"""Expert demonstrations to replay, and what the base model says of them."""
