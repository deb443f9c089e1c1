"""Images and task sentences to model inputs."""

from .processor import PolicyBatch, PrismaticProcessor

__all__ = ["PolicyBatch", "PrismaticProcessor"]
