"""Fast LIBERO on MuJoCo: many episodes per compiled scene, rendered only when a policy observes."""
