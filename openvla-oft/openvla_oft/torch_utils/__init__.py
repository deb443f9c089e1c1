"""What any training with torch needs: processes, shards, whole tensors."""
